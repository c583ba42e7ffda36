"""A whole run under simulation: real head, members, nodes and codec; virtual processes and links.

    simulation = Simulation(plan, seed=7)
    simulation.run(story(simulation), until_s=120.0)

Each slot is a `Process` of the virtual loop: killing it ends it in the middle of what it does (no
`finally` runs), hanging it stops its beats. Every life has a clock of its own, so that comparing
clocks of two processes shows. What happens is told to a `History`.

Knows nothing of roles. `scenario.py` tells stories with it; users do the same with their topology.
"""

from __future__ import annotations

import contextlib
import gc
import io
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from realnet.actor import RunInfo
from realnet.address import parse_address
from realnet.control import HEAD, HEAD_SLOT
from realnet.errors import ConfigError, WireError, listed
from realnet.head import Head, HeadConfig
from realnet.observe.record import Busy, Record, Row
from realnet.observe.startup import Startup
from realnet.testing.faults import OF_LINKS, OF_PROCESSES, SLOWER, Fault
from realnet.testing.history import History
from realnet.testing.loop import VirtualLoop, run_in
from realnet.testing.network import SimulatedNetwork, Weather
from realnet.testing.simulated import Life, SimulatedLauncher, SimulatedNode
from realnet.topology.plan import Plan

NOWHERE = Path("/nonexistent")


class MemoryRecord(Record):
    """The record of a run, kept in memory."""

    def __init__(self) -> None:
        self._files = {}
        self.started_s = 0.0
        self._attempt = 1
        self.busy = Busy()
        self.startup = Startup(None, 0.0)
        self.rows: list[tuple[str, Row]] = []
        self.watchers = [lambda kind, row: self.rows.append((kind, row))]


class Simulation:
    """One run of a plan in a virtual loop. Equal seeds give equal histories."""

    def __init__(
        self,
        plan: Plan,
        seed: int,
        *,
        config: HeadConfig | None = None,
        weather: Weather | None = None,
        boot_s: tuple[float, float] = (0.05, 0.5),
        folder: Path = NOWHERE,
        loop: VirtualLoop | None = None,
    ):
        self.plan = plan
        self.seed = seed
        self.boot_s = boot_s
        self.rng = random.Random(f"simulation {seed}")
        self.loop = loop or VirtualLoop(seed, cost_s=lambda: 0.0005 + 0.01 * self.rng.random())
        self.network = SimulatedNetwork(seed, weather)
        self.history = History(self.loop.time)
        self.record = MemoryRecord()
        self.stderr = io.StringIO()
        self.operations = 0
        self.graves: list[Life] = []
        self.info = RunInfo(f"sim-{seed}", folder, 1, False, Path(plan.base))
        self.head_process = self.loop.process(HEAD_SLOT)
        self.node = SimulatedNode(self, HEAD_SLOT, ())
        self.endpoint = self.node.transport.endpoint
        self.launcher = SimulatedLauncher(self)
        self._config = config or HeadConfig(suspect_after_s=1.0, hung_after_s=3.0, grace_s=10.0)
        self._broken: list[str] = []
        self._errors: list[str] = []

    # ------------------------------------------------------------ a story

    def run(self, story: Coroutine[Any, Any, None], *, until_s: float) -> None:
        """Run a story, which calls `launch`, makes trouble and calls `stop`; close everything.

        Raises what the story raises, and Deadlock or OutOfTime.
        """
        self.loop.until_s = until_s
        collecting = gc.isenabled()
        gc.disable()  # a collection would run what dead processes left, at some moment of its own
        try:
            with contextlib.redirect_stderr(self.stderr):
                run_in(self.loop, story, self._close)
        finally:
            if collecting:
                gc.enable()

    def _close(self) -> None:
        """What the dead would still do when they are buried is no history."""
        self.history.closed = True
        self._errors = list(self.loop.errors)

    def launch(self) -> Head:
        """Start the head and with it every process."""
        return self.head_process.context.run(self._launch)

    def _launch(self) -> Head:
        cell = self.node.add(Head, parse_address(HEAD), self._config)
        head = cell.actor
        assert isinstance(head, Head)
        self.head, self._head_cell = head, cell
        head.prepare(self.node, self.plan, self.launcher, self.record)
        self.node.on_wire_error = lambda error: self.wire_error("head", error)
        self.node.owner = head
        self.node.listen()
        head.launch()
        return head

    async def stop(self, *, graceful: bool = True) -> bool:
        """Stop everything in order; True if all processes ended by themselves."""
        self.history.note("stop")
        task = self.loop.create_task(
            self._stop(graceful), name="stop", context=self.head_process.context.copy()
        )
        return await task

    async def _stop(self, graceful: bool) -> bool:
        clean = await self.head.stop_all(graceful)
        await self._head_cell.end(graceful=False)
        self.node.closed = True
        self.history.note("stopped", "", str(clean))
        return clean

    # ------------------------------------------------------------ trouble

    def suffer(self, fault: Fault) -> None:
        """Let one fault of a schedule happen."""
        network, pair = self.network, (fault.slot, fault.to)
        if fault.what == "kill":
            self.kill(fault.slot)
        elif fault.what == "hang":
            self.hang(fault.slot, fault.value)
        elif fault.what == "cut":
            network.cut(*pair)
            self.loop.call_later(fault.value, network.heal, *pair)
        elif fault.what == "slow":
            network.slow(*pair, SLOWER)
            self.loop.call_later(fault.value, network.slow, *pair, 1.0)
        elif fault.what == "sever":
            network.sever(*pair, fault.value)
        else:
            raise ConfigError(f"{fault.what!r}: faults are {listed((*OF_PROCESSES, *OF_LINKS))}")

    def kill(self, slot: str) -> None:
        """End a slot's process at once."""
        self.history.note("murder", slot)
        self.launcher.kill(slot)

    def hang(self, slot: str, seconds: float) -> None:
        """Freeze a slot's process for a while; it may be found hung and killed before that."""
        if slot == "head":
            process = self.head_process
        elif slot in self.launcher.lives:
            process = self.launcher.lives[slot].process
        else:
            return
        if process.frozen:
            return
        self.history.note("hang", slot, f"{seconds:.3f}")
        self.loop.freeze(process)
        self.loop.call_later(seconds, self.loop.thaw, process)

    def is_calm(self) -> bool:
        """Tell whether no process hangs and the head suspects nobody."""
        lives = [life.process for life in self.launcher.lives.values()]
        return not any(p.frozen for p in (*lives, self.head_process))

    def wire_error(self, slot: str, error: WireError) -> None:
        """A node says what its links went through; a connection that is repaired is no error."""
        if not any(text in str(error) for text in ("was lost and is back", "was cut while")):
            self.broken(f"{slot}: {error}")

    def broken(self, text: str) -> None:
        """Something said that realnet itself is wrong."""
        self._broken.append(text)

    def complaints(self) -> list[str]:
        """What realnet itself did wrong: wire errors, errors that nobody took, a failed head."""
        failed = [text for text in self.said() if "the head failed" in text]
        return [*self._broken, *self._errors, *failed]

    def said(self) -> list[str]:
        """The texts of all events."""
        return [row["text"] for kind, row in self.record.rows if kind == "event"]


__all__ = ["MemoryRecord", "SimulatedLauncher", "SimulatedNode", "Simulation"]
