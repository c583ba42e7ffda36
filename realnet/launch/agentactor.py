"""What the head talks to on each host: it starts and ends the slots that it is told, beats, and
owns the host's shared memory. Leases hold both ways: when the head has not been heard for the
lease, it is over here as well.

Knows nothing of what roles do, nor how the head was found. Made by `agent.py`; the head's end of it
is `hosts.py`.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from realnet.actor import Actor
from realnet.arena import Arenas
from realnet.config import Config
from realnet.control import HEAD_SLOT, Peer
from realnet.errors import ConfigError, RealnetError
from realnet.exits import EXIT_FENCED, EXIT_RETRY
from realnet.launch import ADDRESS, NEARBY
from realnet.launch.local import LocalLauncher
from realnet.launch.reaching import WayToHead, reached
from realnet.launch.records import (
    HOSTS,
    AgentBeat,
    ComeBy,
    DumpSlot,
    Go,
    HeadBeat,
    Hello,
    HostArenaOpened,
    KillSlot,
    Leaving,
    OpenHostArena,
    Reach,
    Reached,
    SlotEnded,
    SlotStarted,
    StartSlot,
)
from realnet.launch.rendezvous import HeadFile
from realnet.node import Node
from realnet.ports import Ask, handles
from realnet.topology.plan import Plan

COME_BY = -1  # no exit code: come again by another way
TICK_S = 0.25
HELLO_S = 30.0
KILLED_S = 5.0
AWAY_S = 1.0


class AgentConfig(Config):
    """Nothing to configure: the head says it all."""


class AgentActor(Actor[AgentConfig]):
    """What the head talks to on each host. `left` is set with the exit code when it may end."""

    head = Ask(Hello)

    def prepare(
        self,
        plan: Plan,
        launcher: LocalLauncher,
        node: Node,
        gpus: Sequence[str],
        sockets: Path,
    ) -> None:
        """Hand in what it works with, before `join`. `sockets`: the folder of its processes'."""
        self.plan, self.launcher, self.node = plan, launcher, node
        self.sockets = str(sockets)
        self.gpus, self.arenas = list(gpus), Arenas()
        self.left: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.lease_s, self.beat_s, self.heard_s = HELLO_S, TICK_S, self.clock.now()
        self._lives: dict[str, int] = {}
        self._slots = {s.name: s for s in plan.slots}
        self._leaving = False
        node.owner = self

    async def join(self, hello: Hello, head: HeadFile, way: WayToHead, limit_s: float) -> None:
        """Say hello. Raises RealnetError when the head does not want this host, AskError when it
        does not answer.
        """
        self.slot = hello.slot
        self.address_of_host = hello.address
        self.node.connect(Peer(HEAD_SLOT, way.endpoint, (HOSTS,)))
        self.node.cells[self.address.full].ports["head"].peer_up(HOSTS, "")
        welcome = await self.head(hello, deadline_s=limit_s)
        if welcome.nonce != head.nonce:
            raise RealnetError("who answered is not the head that wrote head.json")
        if welcome.refused:
            raise RealnetError(f"the head refused this host: {welcome.refused}")
        if welcome.digest != self.plan.digest():
            raise ConfigError(
                f"the plan in the run's folder is another one here ({self.plan.digest()}) than "
                f"for the head ({welcome.digest}): is that folder on a shared file system?"
            )
        self.lease_s, self.beat_s = welcome.lease_s, welcome.beat_s
        self.heard_s = self.clock.now()
        self._beat()  # the head now knows that its answer has come back
        self.spawn(self._tick(), name="lease")

    def _beat(self) -> None:
        self.head.tell(AgentBeat(self.slot, tuple(self._lives)))

    async def _tick(self) -> None:
        """Beat; stop everything when the head is not heard any more."""
        beat_at_s = 0.0
        while not self.left.done():
            due_s = self.clock.now() + TICK_S
            await self.clock.sleep(TICK_S)
            now_s = self.clock.now()
            if now_s - due_s > AWAY_S:  # we stood still: what the head said is yet to be read
                self.heard_s = max(self.heard_s, now_s - self.lease_s + AWAY_S)
            if now_s >= beat_at_s:
                beat_at_s = now_s + self.beat_s
                self._beat()
            silent_s = now_s - self.heard_s
            if silent_s > self.lease_s:
                self.end(EXIT_RETRY, f"the head has not been heard for {silent_s:.1f} s")

    def end(self, code: int, why: str) -> None:
        """Let the agent end."""
        if not self.left.done():
            self.left.set_result((code, why))

    def leave(self, why: str) -> None:
        """The host is being taken away: have the head end in order what is here."""
        if not self._leaving:
            self._leaving = True
            self.head.tell(Leaving(self.slot, why))

    async def end_all(self) -> None:
        """End every process that was started here."""
        until_s = self.clock.now() + KILLED_S
        for slot in self.launcher.alive():
            self.launcher.kill(slot)
        while self.launcher.alive() and self.clock.now() < until_s:
            await self.clock.sleep(0.02)
        self.arenas.close()

    # ------------------------------------------------------------ the head's orders

    @handles
    async def head_beat(self, record: HeadBeat) -> None:
        """The head is there."""
        self.heard_s = self.clock.now()

    @handles
    async def start_slot(self, record: StartSlot) -> None:
        """Start a process, with the GPUs that it is given by position."""
        slot, life = record.slot, record.incarnation
        if slot not in self._slots or self._lives.get(slot, 0) >= life or self.left.done():
            return
        planned = self._slots[slot]
        environment = {
            ADDRESS: self.address_of_host,
            NEARBY: self.sockets,
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus[at] for at in record.gpus),
        }
        meet = record.meet
        if planned.gang:
            if not meet:
                meet = f"{self.address_of_host}:{self.launcher.hold_port(planned.gang, life)}"
            environment["MASTER_ADDR"], _, environment["MASTER_PORT"] = meet.rpartition(":")
        self._lives[slot] = life
        self.launcher.placed[slot] = environment

        def exited(
            how: str, refused: bool = False, lost: bool = False, nowhere: bool = False
        ) -> None:
            if self._lives.get(slot) == life:
                self.head.tell(SlotEnded(slot, life, how, refused))

        try:
            pid = self.launcher.spawn(slot, life, exited)
        except OSError as error:
            exited(f"it cannot be started on {platform.node()}: {error}")
            return
        self.head.tell(SlotStarted(slot, life, pid, meet))

    @handles
    async def kill_slot(self, record: KillSlot) -> None:
        """End a process at once."""
        if self._lives.get(record.slot) == record.incarnation:
            self.launcher.kill(record.slot)

    @handles
    async def dump_slot(self, record: DumpSlot) -> None:
        """Make a process write its stacks."""
        self.launcher.dump(record.slot)

    @handles
    async def open_host_arena(self, request: OpenHostArena) -> HostArenaOpened:
        """Shared memory of this host; it stays when the role that wanted it dies."""
        return HostArenaOpened(self.arenas.open(request.name, request.num_bytes))

    @handles
    async def reach(self, request: Reach) -> Reached:
        """Try to connect to the agents of other hosts."""
        tries = [reached(where, request.limit_s) for where in request.addresses]
        return Reached(tuple(await asyncio.gather(*tries)))

    @handles
    async def come_by(self, record: ComeBy) -> None:
        """The head wants us by another of its addresses."""
        self.end(COME_BY, record.way)

    @handles
    async def go(self, record: Go) -> None:
        """The head wants this host no more."""
        self.end(record.code, record.why)

    # ------------------------------------------------------------ as the owner of its node

    def actor_failed(self, address: object, error: BaseException) -> None:
        """The agent itself raised: a bug; its host is lost for the run."""
        print(f"agent failed: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
        self.end(1, f"the agent failed: {error!r}")

    def actor_finished(self, address: object, text: str) -> None:
        """No role lives here."""

    def link_broken(self, slot: str, text: str) -> None:
        """The head has given this host up, or another head is there: it is fenced."""
        self.end(EXIT_FENCED, text)

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """No role lives here."""
        raise RealnetError("an agent has no shared memory of its own")
