"""What users test their roles with.

A topology in the test's own loop, over the memory transport:

    async with running(topology_text, tmp_path) as run:
        actor = run.actor("trainer/0")
        await run.until(lambda: actor.steps == 3)
        run.kill("rewarder/0")

A topology in virtual time, with faults, where equal seeds give equal runs:

    simulation = Simulation(plan, seed=7)
    simulation.run(story(simulation), until_s=120.0)   # launch, kill, hang, network.cut, stop

`scenario.py` is the framework's own use of it, `simulate.py` plays thousands.

May import anything in realnet; nothing in realnet imports it.
"""

from realnet.testing.loop import Deadlock, OutOfTime, SimulationError, VirtualLoop
from realnet.testing.network import SimulatedNetwork, Weather
from realnet.testing.running import Running, plan_of, running
from realnet.testing.simulation import Simulation

__all__ = [
    "Deadlock",
    "OutOfTime",
    "Running",
    "SimulatedNetwork",
    "Simulation",
    "SimulationError",
    "VirtualLoop",
    "Weather",
    "plan_of",
    "running",
]
