"""Scenarios: a seed becomes a network, a load and a list of faults, is run, and is judged.

    result = play(8812)
    assert not result.wrong, result

Every choice comes from the seed. Called by `simulate.py` and by tests.
"""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realnet.custody import Consumer
from realnet.link import PROBE_S
from realnet.testing.faults import Fault
from realnet.testing.history import History, check
from realnet.testing.loop import SimulationError
from realnet.testing.network import Weather
from realnet.testing.oracle import ORACLE, Oracle
from realnet.testing.simulation import Simulation
from realnet.testing.workload import TOPOLOGY, Source
from realnet.topology import read_source, resolve
from realnet.topology.plan import Plan

FAULTS_FROM_S, FAULTS_TO_S = 0.5, 5.0
KINDS = (
    *("kill", "kill", "kill", "kill all", "hang", "hang", "cut", "cut", "swizzle"),
    *("slow", "sever", "sever", "crash", "crash at start", "stall"),
)
UNTIL_S = 120.0
SETTLE_S = 1.0
STOP_S = 20.0


class Scenario(NamedTuple):
    """What a seed means."""

    seed: int
    plan: Plan
    offered: dict[int, list[str]]
    poison: set[str]
    sticky: frozenset[str]  # whose first handler does not move: another worker has to do them
    faults: tuple[Fault, ...]
    weather: Weather
    stop_s: float | None  # stop at this time, whatever goes on; else when everything is done


class Result(NamedTuple):
    """What came of it."""

    seed: int
    wrong: list[str]
    faults: int
    items: int
    messages: int
    simulated_s: float
    digest: str
    history: History

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.wrong)} wrong", *self.wrong[:10]]
        return "\n  ".join(lines)


@functools.cache
def _base_plan(sources: int, workers: int, helpers: int) -> Plan:
    helper = f"count = {helpers}" if helpers else 'place = "worker"'
    text = TOPOLOGY.format(sources=sources, workers=workers, helper=helper)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sim.toml"
        path.write_text(text, encoding="utf-8")
        return resolve(read_source(path), "sim")


def make(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    plan = _base_plan(rng.randint(1, 2), rng.randint(1, 3), rng.choice((0, 1, 2)))
    sources, num = plan.roles["source"].count, rng.randint(60, 90)
    lanes, load_s = rng.randint(1, 4), rng.choice((1.0, 4.0, 4.0, 6.0))
    pause_s = load_s * lanes * sources / num  # faults meet work under way
    tables: dict[str, dict[str, Any]] = {
        "source": {"pause_s": pause_s, "lanes": lanes, "impatient": rng.random() < 0.3},
        "worker": {
            "window": 1 + rng.randint(1, 8),
            "window_bytes": rng.choice((1 << 20, 2000, 500)),
            "lease_s": rng.choice((0.0, 2.0)),
            "work_s": rng.choice((0.0, 0.01, 0.05)),
        },
        "helper": {"delay_s": rng.choice((0.0, 0.003, 0.02))},
        "sink": {"window": rng.randint(1, 12)},
    }
    roles = {
        name: msgspec.structs.replace(role, config={**role.config, **tables[name]})
        for name, role in plan.roles.items()
    }
    plan = msgspec.structs.replace(plan, roles=roles)
    offered = {s: [f"k{s}.{i}" for i in range(s, num, sources)] for s in range(sources)}
    keys = [k for mine in offered.values() for k in mine]
    poison = {k for k in keys if rng.random() < 0.03}
    others = plan.roles["worker"].count - 1 if tables["worker"]["lease_s"] else 0
    return Scenario(
        seed,
        plan,
        offered,
        poison,
        frozenset(rng.sample([k for k in keys if k not in poison], others)),
        _faults(rng, [s.name for s in plan.slots]),
        Weather(
            0.0002,
            rng.choice((0.001, 0.005, 0.03)),
            loss=rng.choice((0.0, 0.0, 0.01)),
            duplicate=rng.choice((0.0, 0.05)),
            reorder=rng.choice((0.0, 0.05)),
        ),
        None if rng.random() < 0.75 else rng.uniform(0.0, 10.0),
    )


def _faults(rng: random.Random, slots: list[str]) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    everyone = (*slots, "head")
    for _ in range(rng.randint(7, 12)):
        at_s = rng.uniform(FAULTS_FROM_S, FAULTS_TO_S)
        slot, seconds = rng.choice(slots), rng.choice((0.3, 1.0, 2.0, 4.0))
        what = rng.choice(KINDS)
        if what == "hang":
            faults.append(Fault(at_s, what, rng.choice(everyone), "", seconds))
        elif what == "stall":  # the head stands still, as on a laptop that sleeps
            faults.append(Fault(at_s, "hang", "head", "", rng.choice((0.5, 2.0, 4.0, 8.0))))
        elif what in ("cut", "slow", "sever"):
            faults += _bad_link(rng, Fault(at_s, what, slot, "", seconds), everyone)
        elif what == "swizzle":  # several links, healed in another order than they were cut
            for _ in range(4):
                fault = Fault(at_s, "cut", rng.choice(slots), "", rng.uniform(0.2, 3.0))
                faults += _bad_link(rng, fault, everyone)
        elif what == "kill":
            faults.append(Fault(at_s, what, slot))
            if rng.random() < 0.3:  # again, while it starts
                faults.append(Fault(at_s + rng.uniform(0.0, 1.0), what, slot))
        elif what == "kill all":
            role = slot.partition("/")[0] + "/"
            faults += [Fault(at_s, "kill", s) for s in slots if s.startswith(role)]
        else:
            faults.append(Fault(at_s, what, slot.partition("/")[0]))
    return tuple(sorted(faults))


def _bad_link(rng: random.Random, fault: Fault, everyone: tuple[str, ...]) -> list[Fault]:
    """Return the fault for a link of this slot, in either direction or both."""
    here, there = fault.slot, rng.choice([s for s in everyone if s != fault.slot])
    out, back = fault._replace(to=there), fault._replace(slot=there, to=here)
    return rng.choice(([out], [back], [out, back]))


def play(seed: int, patch: Callable[[Simulation], None] | None = None) -> Result:
    """Run the scenario of a seed and judge it. `patch` may spoil something first (mutants)."""
    return play_scenario(make(seed), patch)


def play_scenario(scenario: Scenario, patch: Callable[[Simulation], None] | None = None) -> Result:
    """Run a scenario and judge it."""
    simulation = Simulation(scenario.plan, scenario.seed, weather=scenario.weather)
    oracle = Oracle(simulation.history, scenario.offered, scenario.poison)
    oracle.sticky.update(scenario.sticky)
    simulation.head_process.context.run(ORACLE.set, oracle)
    if patch is not None:
        patch(simulation)
    wrong: list[str] = []
    try:
        simulation.run(_story(simulation, scenario, oracle, wrong), until_s=UNTIL_S)
    except SimulationError as error:
        wrong.append(f"{type(error).__name__}: {error}")
    windows = {r: int(scenario.plan.roles[r].config["window"]) for r in ("worker", "sink")}
    keys = {k for mine in scenario.offered.values() for k in mine}
    finished = scenario.stop_s is None
    leases = bool(scenario.plan.roles["worker"].config["lease_s"])
    wrong += check(
        simulation.history, keys, scenario.poison, windows, finished=finished, leases=leases
    )
    wrong += simulation.complaints()
    return Result(
        scenario.seed,
        wrong,
        len(scenario.faults),
        len(keys),
        simulation.operations,
        simulation.loop.time(),
        simulation.history.digest(),
        simulation.history,
    )


async def _story(
    simulation: Simulation, scenario: Scenario, oracle: Oracle, wrong: list[str]
) -> None:
    head = simulation.launch()
    trouble = asyncio.create_task(_trouble(simulation, scenario, oracle))
    if scenario.stop_s is not None:
        await asyncio.sleep(scenario.stop_s)
    else:
        well, text = await head.ended
        if not well:
            wrong.append(f"the run ended badly: {text}")
        await trouble
        oracle.crashes.clear()
        oracle.release.set()
        lossy = simulation.network.weather.loss > 0
        simulation.network.weather = simulation.network.weather._replace(loss=0.0)
        while not _quiet(simulation):  # noqa: ASYNC110 (polling costs no time here)
            await asyncio.sleep(0.1)
        await asyncio.sleep(max(0.0, simulation.network.rest_s - simulation.loop.time()))
        # What was lost last is asked after by a probe only.
        await asyncio.sleep(SETTLE_S + (PROBE_S + 1.0 if lossy else 0.0))
        _look(simulation)
    asked_s = simulation.loop.time()
    clean = await simulation.stop()
    took_s = simulation.loop.time() - asked_s
    trouble.cancel()
    if simulation.launcher.alive():
        wrong.append(f"left alive: {simulation.launcher.alive()}")
    if took_s > STOP_S:
        wrong.append(f"the stop took {took_s:.1f} s")
    if scenario.stop_s is None and not clean:
        wrong.append("not every process ended by itself at a calm stop")
    if scenario.stop_s is None:
        wrong += [text for text in simulation.said() if "did not stop in order" in text]


def _quiet(simulation: Simulation) -> bool:
    head = simulation.head
    return simulation.is_calm() and all(
        s.state == "up" and s.name in simulation.launcher.lives
        for s in head.supervisor.slots.values()
    )


def _look(simulation: Simulation) -> None:
    """At rest, nobody believes in the dead, and nothing is in custody."""
    alive = {life.node.slot for life in simulation.launcher.lives.values()}
    for life in simulation.launcher.lives.values():
        for slot in sorted(life.node._up - alive):
            simulation.history.note("stale", life.node.slot, slot)
        for slot in sorted(alive - life.node._up - {life.node.slot}):
            simulation.broken(f"{life.node.slot} does not know that {slot} is up")
        for cell in life.node.cells.values():
            if isinstance(cell.actor, Source):
                mourned = {
                    e.key for e in simulation.history.of("mourns") if e.who == cell.address.full
                }
                for worker in sorted(cell.actor.watched - mourned - alive):
                    simulation.broken(f"{cell.address.full} was not told of the death of {worker}")
            for port in cell.ports.values():
                consumer = getattr(port, "_consumer", None)
                if isinstance(consumer, Consumer):
                    where = f"{cell.address.full}.{port.name}"
                    _look_at_grants(simulation, where, consumer, alive)
                held = getattr(port, "in_hand", 0) + getattr(port, "leased", 0)
                if held:
                    simulation.broken(f"{cell.address.full}.{port.name} holds {held} at rest")


def _look_at_grants(
    simulation: Simulation, where: str, consumer: Consumer, alive: set[str]
) -> None:
    """When nothing waits, no producer keeps a grant; and no dead one is remembered."""
    for producer, (num, num_bytes) in consumer.granted().items():
        if num or num_bytes:
            simulation.broken(f"{where} granted {num} ({num_bytes} bytes) to {producer} at rest")
        if producer[0] not in alive:
            simulation.broken(f"{where} remembers {producer}, which is dead")
    if consumer.in_hand_bytes:
        simulation.broken(f"{where} holds {consumer.in_hand_bytes} bytes at rest")


async def _trouble(simulation: Simulation, scenario: Scenario, oracle: Oracle) -> None:
    loop = simulation.loop
    for fault in scenario.faults:
        await asyncio.sleep(max(0.0, fault.at_s - loop.time()))
        simulation.history.note("fault", fault.slot, f"{fault.what} {fault.to} {fault.value}")
        if not fault.what.startswith("crash"):
            simulation.suffer(fault)
        else:
            where = fault.slot + (" start" if fault.what == "crash at start" else "")
            oracle.crashes[where] = oracle.crashes.get(where, 0) + 1
    end_s = max(f.at_s + f.value for f in scenario.faults)
    await asyncio.sleep(max(0.0, end_s - loop.time()))
