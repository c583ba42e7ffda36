"""The processes of a simulated run: each a node, a member and a launcher's handle on its life.

They are the real ones, in processes of the virtual loop, and tell the simulation's history what
they do. Knows nothing of stories or faults: who is killed when is said in `simulation.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from realnet import wire
from realnet.codec import Frame
from realnet.memberactor import make_member
from realnet.node import Node
from realnet.testing.process import Process
from realnet.topology.plan import WirePlan
from realnet.waits import Waits
from realnet.watches import Tell
from realnet.watching import Watching
from realnet.ways import Way

if TYPE_CHECKING:
    from realnet.testing.simulation import Simulation


class SimulatedWatching(Watching):
    """Watches that tell the history what they tell."""

    def __init__(self, waits: Waits, told: Callable[[int], None]):
        super().__init__(waits)
        self._told = told

    def _do(self, effects: Sequence[Tell]) -> None:
        for effect in effects:
            self._told(effect.watch)
        super()._do(effects)


class SimulatedNode(Node):
    """A node that tells the history whom it hears of, and counts operations."""

    def __init__(self, simulation: Simulation, slot: str, wires: tuple[WirePlan, ...]):
        self._simulation = simulation
        skew_s = simulation.rng.choice((0.0, 0.0, 5.0, 1e6)) * simulation.rng.random()
        loop = simulation.loop
        super().__init__(
            slot,
            simulation.network.transport(slot),
            simulation.info,
            wires,
            now=lambda: loop._now_s + skew_s,
        )
        self.watching = SimulatedWatching(
            self.waits, lambda watch: simulation.history.note("tells", slot, str(watch))
        )
        simulation.loop.waits.append(self.waits)
        self.on_wire_error = lambda error: simulation.wire_error(slot, error)

    def peer_up(self, slot: str) -> None:
        """Another process is up."""
        self._simulation.history.note("told up", self.slot, slot)
        super().peer_up(slot)

    def peer_down(self, slot: str, why: str = "") -> None:
        """Another process is dead."""
        self._simulation.history.note("told down", self.slot, slot)
        super().peer_down(slot, why)

    def way(self, to: str, port: str, sender: str, sender_port: str, lane: int) -> Way:
        """Return a way that counts what is sent on it."""
        return _Counted(self._simulation, super().way(to, port, sender, sender_port, lane))


class _Counted:
    """A way that counts operations."""

    def __init__(self, simulation: Simulation, way: Way):
        self._simulation, self._way = simulation, way
        self.local = way.local
        self.far = None  # what it would write itself is to be counted too

    def send(self, op: wire.AnyOp, frames: Sequence[Frame] = ()) -> None:
        """Send one operation, and count it."""
        self._simulation.operations += 1
        self._way.send(op, frames)


class Life:
    """One incarnation of a slot."""

    def __init__(self, process: Process, node: Node, exited: Callable[[str], None]):
        self.process = process
        self.node = node
        self.exited = exited
        self.task: asyncio.Task[None] | None = None


class SimulatedLauncher:
    """How virtual processes come and go: a `Launcher` for the head."""

    def __init__(self, simulation: Simulation):
        self._simulation = simulation
        self.lives: dict[str, Life] = {}

    def spawn(self, slot: str, incarnation: int, exited: Callable[[str], None]) -> int:
        """Start a process; it takes a while to load."""
        simulation = self._simulation
        full = f"{slot}~{incarnation}"
        process = simulation.loop.process(full)
        node = SimulatedNode(simulation, full, simulation.plan.wires)
        life = self.lives[slot] = Life(process, node, exited)
        simulation.history.note("spawn", full)
        life.task = simulation.loop.create_task(
            self._live(life, slot, incarnation), name=f"{full} process", context=process.context
        )
        return 0

    def kill(self, slot: str) -> None:
        """End a process at once, as SIGKILL would."""
        if slot in self.lives:
            self._simulation.history.note("kill", slot)
            self._gone(slot, "killed by SIGKILL", killed=True)

    def dump(self, slot: str) -> str:
        """Nothing: there are no threads here."""
        return ""

    def alive(self) -> list[str]:
        """The slots whose process has not ended."""
        return list(self.lives)

    async def open_arena(self, slot: str, name: str, num_bytes: int) -> str:
        """Nothing: the head's own."""
        return ""

    async def _live(self, life: Life, slot: str, incarnation: int) -> None:
        simulation, node = self._simulation, life.node
        await asyncio.sleep(simulation.rng.uniform(*simulation.boot_s))
        planned = next(s for s in simulation.plan.slots if s.name == slot)
        try:
            member = make_member(node, simulation.plan, planned, incarnation)
            member.load_roles()
            node.listen()
            await member.join(simulation.endpoint)
            await member.left.wait()
        except Exception as error:
            self._gone(slot, f"exit code 1 ({error})")
            return
        node.flush()
        self._gone(slot, "exit code 1" if member.failed else "exit code 0")

    def _gone(self, slot: str, how: str, killed: bool = False) -> None:
        simulation, life = self._simulation, self.lives.pop(slot)
        life.node.closed = True
        simulation.network.end(life.node.transport.endpoint, killed=killed)
        simulation.loop.end(life.process)
        simulation.loop.waits.remove(life.node.waits)
        simulation.graves.append(life)
        simulation.history.note("exit", life.node.slot, how)
        simulation.loop.call_later(
            simulation.rng.uniform(0.001, 0.05),
            life.exited,
            how,
            context=simulation.head_process.context.copy(),
        )
