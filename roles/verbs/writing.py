"""An engine in this process: tickets in, rollouts out, with no actor and no socket between.

Answers are drawn exactly as a driver asks for them. Knows the torch engine and records. Knows
nothing of rewards or of the command line. Called by `try` and `chat`. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from realnet.roles.driver.answer import Partial
from realnet.roles.driver.episode import sampling_of
from realnet.roles.generator.engine import make_core
from realnet.roles.generator.generator import GeneratorConfig
from realnet.roles.messages import Generate, Ints, Rollout, SampleKey, Sampling, Segment, Ticket
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.verbs.setting import Setting
from realnet.roles.verbs.weights import Weights

_NONE = np.zeros(0, np.float32)


class Writer:
    """Writes answers with given weights.

    `one` is for a single answer at a time whose tokens are wanted as they come.
    """

    def __init__(
        self, setting: Setting, tokenizer: Tokenizer, weights: Weights, *, one: bool = False
    ) -> None:
        config = setting.table(GeneratorConfig, "generator").engine
        config = msgspec.structs.replace(config, kind="torch")
        if one:
            config = msgspec.structs.replace(config, slots=1, flush=1)
        policy = setting.policy
        self._tokenizer, self._block = tokenizer, config.block
        self._engine = make_core(config, policy, tokenizer.vocab_size, setting.base, policy.seed)
        self._engine.stage(weights.arrays, weights.version)
        self._engine.swap()
        self.version = weights.version

    def answers(self, tickets: Sequence[Ticket]) -> Iterator[Rollout]:
        """Yield every answer of every ticket as it is finished."""
        open_: dict[int, tuple[Ticket, int, Partial]] = {}
        for ticket in tickets:
            for sample in range(ticket.group):
                sampling = sampling_of(ticket, sample, self._tokenizer.eos_id)
                open_[len(open_)] = (ticket, sample, Partial())
                self._submit(len(open_) - 1, ticket.prompt_ids, sampling)
        while open_:
            for number, delta in self._engine.step(self._block):
                ticket, sample, partial = open_[number]
                partial.add(delta)
                if delta.finish:
                    del open_[number]
                    yield self._rollout(ticket, sample, partial, delta.finish)

    def stream(self, prompt_ids: Ints, sampling: Sampling) -> Iterator[str]:
        """Yield the text of one answer piece by piece, without its stop token."""
        self._submit(0, prompt_ids, sampling)
        tokens: list[int] = []
        said, finish = "", ""
        while not finish:
            for _, delta in self._engine.step(1):
                tokens += delta.token_ids.tolist()
                finish = delta.finish
            text = self._tokenizer.decode(tokens)
            whole = finish or not text.endswith("�")  # half of a character: the rest is to come
            if whole and len(text) > len(said):
                yield text[len(said) :]
                said = text

    def _submit(self, number: int, prompt_ids: Ints, sampling: Sampling) -> None:
        nothing = np.zeros(0, np.int32)
        request = Generate(self.version.policy, prompt_ids, sampling, tokens_so_far=nothing)
        self._engine.submit(number, request)

    def _rollout(self, ticket: Ticket, sample: int, partial: Partial, stop: str) -> Rollout:
        tokens = partial.tokens
        return Rollout(
            key=SampleKey(ticket.key, sample),
            task=ticket.task,
            prompt=ticket.prompt,
            text=self._tokenizer.decode(tokens[:-1] if stop == "stop" else tokens),
            answer=ticket.answer,
            segments=(Segment("prompt", ticket.prompt_ids, _NONE), partial.segment()),
            stop=stop,
        )
