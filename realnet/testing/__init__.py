"""What users test their roles with: a topology in one loop, over the memory transport.

    async with running(topology_text, tmp_path) as run:
        actor = run.actor("trainer/0")
        await run.until(lambda: actor.steps == 3)
        run.kill("rewarder/0")

May import anything in realnet; nothing in realnet imports it.
"""

from realnet.testing.running import Running, plan_of, running

__all__ = ["Running", "plan_of", "running"]
