"""A run's generators for somebody's own program: episodes are written there and given back here.

    async with realnet.Node(key="shop.key") as node:
        client = Client(node)
        episode = client.begin("003847+000925=")
        text = await episode.write()
        await client.give_back("order-17", [(episode, 1.0)])

An episode has the turns of any agent's (`Episode.write`, `Episode.tell`). What is given back is
trained on when the run has a collector; the tokens, who wrote them and with which probability
travel along, so that it is trained on as what it is.

Knows records and a guest's node. Used by services and scripts; no role imports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from realnet import Node
from realnet.config import read_table
from realnet.errors import ConfigError, RealnetError, listed
from realnet.roles.driver.episode import Episode
from realnet.roles.messages import (
    Collect,
    Collected,
    Delta,
    Finished,
    Generate,
    TicketKey,
    Version,
)
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.tasks import Problem, make_ticket


class Client:
    """Asks the generators of one policy. `base` is where a tokenizer's folder is relative to.

    `generator` and `collector` are the names of the run's roles. Raises ConfigError when the run
    has no such policy, or its tokenizer is not here.
    """

    def __init__(
        self,
        node: Node,
        *,
        policy: str = "",
        generator: str = "generator",
        collector: str = "collector",
        base: Path = Path(),
        tokenizer: Tokenizer | None = None,
    ) -> None:
        policies = node.plan.shared.get("policy", {})
        if (not policy and len(policies) != 1) or (policy and policy not in policies):
            raise ConfigError(
                f"which policy of {node.plan.name}? Say policy=; it has: {listed(policies)}"
            )
        self.name = policy or next(iter(policies))
        self.policy = read_table(Policy, policies[self.name], f"plan.json: policy {self.name}")
        self._node, self._generator, self._collector = node, generator, collector
        self._tokenizer = tokenizer or load_tokenizer(self.policy, base)
        self._begun = 0

    def begin(
        self,
        prompt: str,
        *,
        temperature: float | None = None,
        at_least: Version | None = None,
    ) -> Episode:
        """Begin an episode; nothing is asked yet. `temperature`: default the policy's.

        What is to be trained on is best drawn at the policy's own temperature: the trainer takes
        its log-probabilities for those. Raises CannotAsk for a prompt that leaves no room.
        """
        self._begun += 1
        ticket = make_ticket(
            TicketKey(self.name, self._begun, self._node.name),
            "given",
            Problem(prompt, "", {}, chat=False, source=f"a prompt of {self._node.name}"),
            self.policy,
            self._tokenizer,
            group=1,
            temperature=self.policy.temperature if temperature is None else temperature,
            at_least=at_least,
        )
        return Episode(ticket, 0, self._tokenizer, self._ask, asyncio.sleep)

    async def give_back(
        self,
        key: str,
        episodes: Sequence[tuple[Episode, float]],
        *,
        deadline_s: float = 120.0,
    ) -> Collected:
        """Have episodes of one prompt trained on, each with its reward; return their ticket.

        `key` names the group: giving it back twice does no harm. Returns when the trainer has it
        on its disk, and waits for room until then. Raises what an ask raises; DeadlineExceeded
        when there was no room for `deadline_s` seconds: give it back again.
        """
        finished = []
        for episode, reward in episodes:
            rollout = episode.rollout(0.0)
            finished.append(Finished(rollout.segments, rollout.text, rollout.stop, reward))
        prompt = episodes[0][0].ticket.prompt if episodes else ""
        request = Collect(key, prompt, tuple(finished))
        return await self._node.ask(self._collector, request, deadline_s=deadline_s)

    async def _ask(self, request: Generate) -> AsyncGenerator[Delta, None]:
        """Ask a generator. While the run goes on somebody will answer; afterwards nobody."""
        if self._node.ended:
            raise RealnetError(f"{self._node.name} is in no run any more: {self._node.ended}")
        async with aclosing(self._node.stream(self._generator, request)) as deltas:
            async for delta in deltas:
                yield delta
