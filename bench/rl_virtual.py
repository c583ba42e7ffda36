"""`bench/rl_async.toml` in virtual time: any number of generators on one core.

Head, members, nodes, links, codec, delivery, admission, ledger, journal and every role are the
real ones (`realnet.testing`); virtual are time, processes and the network between them. What an
engine's block and a trainer's step cost is written down here; all other compute is nearly free.

Knows the topology's names. Called by `rl_async.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from realnet.head import HeadConfig
from realnet.testing.loop import VirtualLoop
from realnet.testing.network import Weather
from realnet.testing.simulation import Simulation
from realnet.topology import read_source, resolve, write_plan

T = TypeVar("T")
TOPOLOGY = Path(__file__).parent / "rl_async.toml"
LITTLE_S = 0.0005  # compute that is neither a block nor a step
DATA_CENTRE = Weather(0.00005, 0.0005)


class TimedLoop(VirtualLoop):
    """A virtual loop in which a block of tokens and a step cost what they are said to cost."""

    def __init__(self, seed: int, block_s: float, step_s: float):
        super().__init__(seed, cost_s=lambda: LITTLE_S)
        self._labels = {"generate": block_s, "train": step_s}

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` when its cost is over. A cell's calls bring their label as the last word."""
        label = args[-1] if args and isinstance(args[-1], str) else ""
        cost_s = self._labels.get(label, LITTLE_S)
        self.cost_s = lambda: cost_s
        return super().run_in_executor(executor, func, *args)


def run_virtual(
    folder: Path, sets: Sequence[str], *, block_s: float, step_s: float, seed: int
) -> list[dict[str, Any]]:
    """Run to the end; return the trainer's rows. Raises RuntimeError when realnet was at fault."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    free = ("roles.generator.engine.fake.rate=0", "roles.trainer.step_s=0")
    plan = resolve(read_source(TOPOLOGY, (*sets, *free)), "virtual")
    folder.mkdir(parents=True, exist_ok=True)
    write_plan(plan, folder)
    simulation = Simulation(
        plan,
        seed,
        config=HeadConfig(suspect_after_s=60.0, hung_after_s=600.0, grace_s=60.0),
        weather=DATA_CENTRE,
        folder=folder,
        loop=TimedLoop(seed, block_s, step_s),
    )

    async def story() -> None:
        head = simulation.launch()
        await head.ended
        await simulation.stop()

    simulation.run(story(), until_s=1e7)
    if wrong := simulation.complaints():
        raise RuntimeError(f"the simulation went wrong: {wrong[:3]}")
    rows = [row for kind, row in simulation.record.rows if kind == "metrics"]
    return [row for row in rows if row["actor"].startswith("trainer/") and "step_s" in row]
