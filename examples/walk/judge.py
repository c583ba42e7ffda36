"""A judge of thinking: the share of written columns that are right adds to the reward."""

import re

from realnet import Actor, Config, Delivery, Inlet, Outlet
from realnet.roles.messages import Scored


class JudgeConfig(Config):
    """`[roles.judge]`."""

    worth: float = 0.1


class Judge(Actor[JudgeConfig]):
    """Looks at the columns that an answer adds up, and rewards those that are right."""

    scored = Inlet(Scored)
    judged = Outlet(Scored)

    @scored.handler
    async def judge(self, item: Delivery[Scored]) -> None:
        """Judge one answer and hand it on."""
        was = item.body
        if was.reward is not None:  # None: the rewarder could not judge it, and says why
            columns = re.findall(r"(\d)\+(\d)=(\d\d)", was.rollout.text)
            right = sum(int(a) + int(b) in (int(c), int(c) - 1) for a, b, c in columns)
            share = right / len(columns) if columns else 0.0
            reward = was.reward + self.config.worth * share
            was = Scored(was.rollout, reward, {**was.parts, "columns": share})
        # The answer is finished when what it became is finished: at the trainer's journal.
        await self.judged.send(was, caused_by=item, key=item.key)
