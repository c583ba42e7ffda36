"""Trainer and generator as plain objects: two steps of training, written out, in one file.

python drive.py [folder]
"""

import asyncio
import sys
import tempfile

import numpy as np

from realnet import Local
from realnet.roles.driver.episode import Episode
from realnet.roles.generator.generator import Generator
from realnet.roles.messages import GroupClosed, PolicyStatus, Scored, TakeSlots, TicketKey
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.parameter_server import ParameterServer
from realnet.roles.tables import Policy, Save, Schedule, Task, Until
from realnet.roles.tasks import Problem, make_ticket
from realnet.roles.trainer.trainer import Trainer, TrainerConfig

POLICY = Policy(
    model="new:llama",
    tokenizer="new:chars",
    shape={"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64},
    context=64,
    max_tokens=16,
    batch=4,
    group=4,
    max_age=0,
)
SCHEDULE = Schedule(until=Until(steps=2), save=Save(export="none"))
TASKS = {"digits": Task(data="new:addz", reward={"exact": 1.0})}


async def main(folder: str) -> list[float]:
    """Train two steps; return the mean reward of each."""
    codec = Tokenizer.new_chars()
    rewards: list[float] = []
    async with Local(folder) as local:
        await local.add(ParameterServer, shared=[POLICY])
        generator = await local.add(Generator, shared=[POLICY])
        config = TrainerConfig(algorithm="rloo", lr=1e-3)
        trainer = await local.add(Trainer, config, shared=[POLICY, SCHEDULE, TASKS])
        status = await local.follow(trainer, PolicyStatus)
        for _ in range(SCHEDULE.until.steps):
            slots = await local.ask(trainer, TakeSlots("policy", POLICY.batch))
            given: list[float] = []
            for number in (n for start, end in slots.intervals for n in range(start, end)):
                ticket = make_ticket(
                    TicketKey("policy", number),
                    "digits",
                    Problem("say digits:", "", {}, chat=False),
                    POLICY,
                    codec,
                    group=POLICY.group,
                    temperature=1.0,
                    at_least=(await status.get()).version,
                )
                for sample in range(ticket.group):
                    episode = Episode(
                        ticket, sample, codec, lambda r: local.stream(generator, r), asyncio.sleep
                    )
                    text = await episode.write()
                    reward = float(np.mean([char.isdigit() for char in text] or [0.0]))
                    scored = Scored(episode.rollout(0.0), reward)
                    await local.send(trainer, scored, key=str(episode.key))
                    given.append(reward)
                closed = GroupClosed(ticket.key, ticket.group)
                await local.send(trainer, closed, key=str(ticket.key))
            rewards.append(float(np.mean(given)))
        print(await local.ended(), "rewards", [round(r, 3) for r in rewards])
    return rewards


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else made))
