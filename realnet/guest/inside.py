"""The actor that realnet itself has in a guest: it hears the head, and beats.

Knows nothing of how the guest came in: `node.py` makes it, and is told of what the head says.
"""

from __future__ import annotations

from typing import Protocol

from realnet.actor import Actor
from realnet.cell import Cell
from realnet.control import (
    Leave,
    Observed,
    PeerChanged,
    PeerDown,
    PeerJoined,
    PeerUp,
    StopActors,
)
from realnet.errors import AskError, DeadlineExceeded, PeerDied
from realnet.guest.records import (
    Depart,
    Enter,
    Expelled,
    GuestBeat,
    Ready,
    Remove,
    Serve,
    Wire,
)
from realnet.liveness import BEAT_S
from realnet.message import Nothing
from realnet.node import Node as Process
from realnet.ports import Ask, handles
from realnet.script import NoConfig


class Told(Protocol):
    """Who hears of what the head says."""

    def over(self, why: str, failed: bool) -> None: ...
    def hosted(self) -> list[Cell]: ...
    async def stop_role(self, role: str) -> None: ...


class GuestActor(Actor[NoConfig]):
    """What the desk of the head talks to."""

    desk = Ask(Enter, Wire, Serve, Ready, Remove, Depart, GuestBeat)

    def prepare(self, process: Process, told: Told, suspect_s: float, hung_s: float) -> None:
        """Hand in what it works with, and how long the head may be silent."""
        self._process, self._told = process, told
        self._suspect_s, self._hung_s = suspect_s, hung_s

    @handles
    async def peer_joined(self, record: PeerJoined) -> None:
        """Another process can be reached."""
        self._process.connect(record.peer)

    @handles
    async def peer_up(self, record: PeerUp) -> None:
        """Another process is up."""
        self._process.peer_up(record.slot)

    @handles
    async def peer_changed(self, record: PeerChanged) -> None:
        """Another guest has come, or changed."""
        self._process.peer_changed(record.peer)

    @handles
    async def peer_down(self, record: PeerDown) -> None:
        """Another process is dead."""
        self._process.peer_down(record.slot, record.why)

    @handles
    async def stop_actors(self, request: StopActors) -> Nothing:
        """The run ends: stop what this guest hosts of a role."""
        await self._told.stop_role(request.role)
        return Nothing()

    @handles
    async def leave(self, record: Leave) -> None:
        """The run is over."""
        self._told.over("the run has ended", False)

    @handles
    async def expelled(self, record: Expelled) -> None:
        """This guest is put out."""
        self._told.over(record.why, True)

    # ------------------------------------------------------------ beats

    async def beats(self) -> None:
        """Beat until the head is gone, or takes this guest for dead."""
        due_s = heard_s = self.clock.now()
        stood_s = 0.0  # how long this loop stood still since the head was last heard in time
        while True:
            due_s = max(due_s + BEAT_S, self.clock.now())
            await self.clock.sleep(due_s - self.clock.now())
            asked_s = self.clock.now()
            stood_s = max(stood_s, asked_s - due_s)
            try:
                await self.beat()
                heard_s = self.clock.now()
                stood_s = heard_s - asked_s if heard_s - asked_s >= self._suspect_s else 0.0
            except PeerDied:
                return  # it is over, and somebody has said why
            except DeadlineExceeded:
                now_s = self.clock.now()
                stood_s = max(stood_s, now_s - asked_s - self._suspect_s)
                if stood_s >= self._suspect_s / 2:
                    text = f"this loop stood still for {stood_s:.1f} s: the run takes it for dead"
                    self._told.over(f"{text}; enter again", True)
                elif now_s - heard_s >= self._hung_s:
                    text = f"the head has not answered for {now_s - heard_s:.1f} s"
                    self._told.over(text, True)
            except AskError as error:
                self._told.over(f"the head refuses: {error}", True)

    async def beat(self) -> None:
        """Tell the head what the actors do, and what they wrote."""
        process = self._process
        while process.observations:
            take = min(len(process.observations), 500)
            self.desk.tell(Observed(tuple(process.observations.popleft() for _ in range(take))))
        doing = tuple(cell.does() for cell in self._told.hosted())
        await self.desk(GuestBeat(process.slot, doing), deadline_s=self._suspect_s)
