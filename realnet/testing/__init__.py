"""What users test their roles with.

A topology in the test's own loop, over the memory transport:

    async with running(topology_text, tmp_path) as run:
        actor = run.actor("trainer/0")
        await run.until(lambda: actor.steps == 3)
        run.kill("rewarder/0")

A topology in virtual time, with faults, where equal seeds give equal runs:

    simulation = Simulation(plan, seed=7)
    simulation.run(story(simulation), until_s=120.0)   # launch, kill, hang, network.cut, stop

Faults by schedule, in virtual time or in real processes, and what a test left behind:

    await strike(schedule(seed=7, slots=["rewarder/0", "trainer/0"]), simulation)
    async with no_leaks(): ...

docs/testing.md shows all of them. `scenario.py` is the framework's own use of it, `simulate.py`
plays thousands.

May import anything in realnet; nothing in realnet imports it.
"""

from realnet.testing.faults import Fault, RealProcesses, schedule, strike
from realnet.testing.leaks import Leak, no_leaks
from realnet.testing.loop import Deadlock, OutOfTime, SimulationError, VirtualLoop
from realnet.testing.network import SimulatedNetwork, Weather
from realnet.testing.running import Running, plan_of, running
from realnet.testing.simulation import Simulation
from realnet.transport.memory import MemoryNetwork, MemoryTransport

__all__ = [
    "Deadlock",
    "Fault",
    "Leak",
    "MemoryNetwork",
    "MemoryTransport",
    "OutOfTime",
    "RealProcesses",
    "Running",
    "SimulatedNetwork",
    "Simulation",
    "SimulationError",
    "VirtualLoop",
    "Weather",
    "no_leaks",
    "plan_of",
    "running",
    "schedule",
    "strike",
]
