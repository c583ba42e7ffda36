"""One episode in the making: what a model writes and what it is told in between, as segments.

    text = await episode.write()      a model's turn
    episode.tell("= 4772")            what a tool, or the world, says to it: carries no gradient
    text = await episode.write()      the next turn sees all of that

A single-turn answer is an episode of one turn. Everything after the prompt, told or written, has
its place in the ticket's `max_tokens`.

Knows records, and how one turn is asked for; knows nothing of actors, tools or rewards. Made by the
driver, which hands it to `Driver.play`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import msgspec
import numpy as np

from realnet.roles.driver.answer import Ask, Partial, Pause, write
from realnet.roles.messages import (
    Floats,
    Generate,
    Ints,
    Rollout,
    SampleKey,
    Sampling,
    Segment,
    Ticket,
)

_NO_TOKENS: Ints = np.zeros(0, np.int32)
_NO_LOGPROBS: Floats = np.zeros(0, np.float32)


class TextCodec(Protocol):
    """What is needed of a tokenizer."""

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, special tokens in it recognised."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, without the stop token."""
        ...


class Episode:
    """One answer to a ticket, turn by turn.

    `text` is all that came after the prompt so far, `stop` how the last turn ended: "stop", or
    "length" when there was no more room. `continued` counts turns that went on elsewhere.
    """

    def __init__(
        self, ticket: Ticket, sample: int, tokenizer: TextCodec, ask: Ask, pause: Pause
    ) -> None:
        self.ticket = ticket
        self.key = SampleKey(ticket.key, sample)
        self.text = ""
        self.stop = ""
        self.continued = 0
        self._tokenizer, self._ask, self._pause = tokenizer, ask, pause
        self._sampling = sampling_of(ticket, sample, tokenizer.eos_id)
        self._segments = [Segment("prompt", ticket.prompt_ids, _NO_LOGPROBS)]
        self._turns = 0

    @property
    def room(self) -> int:
        """How many tokens may still be written or told."""
        used = sum(len(segment.token_ids) for segment in self._segments[1:])
        return max(0, self._sampling.max_tokens - used)

    async def write(self) -> str:
        """Let the model write its next turn, and return its text; "" when there is no room.

        Raises what asking a generator raises, after it was tried with others.
        """
        if not self.room:
            self.stop = "length"
            return ""
        request = Generate(
            policy=self.ticket.key.policy,
            prompt_ids=np.concatenate([s.token_ids for s in self._segments]),
            sampling=msgspec.structs.replace(
                self._sampling, max_tokens=self.room, seed=self._seed()
            ),
            tokens_so_far=_NO_TOKENS,
            session=str(self.ticket.key),
            pinned=self.ticket.pinned,
            at_least=self.ticket.at_least,
        )
        partial = Partial()
        self.stop = await write(self._ask, request, partial, self._pause)
        self._turns += 1
        self.continued += partial.continued
        self._append(partial.segment())
        tokens = partial.tokens
        said = self._tokenizer.decode(tokens[:-1] if self.stop == "stop" else tokens)
        self.text += said
        return said

    def tell(self, text: str) -> None:
        """Add what no model wrote. Cut where the room ends."""
        tokens = np.array(self._tokenizer.encode(text)[: self.room], np.int32)
        if len(tokens):
            self._append(Segment("tool", tokens, _NO_LOGPROBS))
            self.text += text

    def rollout(self, generated_s: float) -> Rollout:
        """Return the episode as it is scored and trained on. `generated_s`: how long it took."""
        return Rollout(
            key=self.key,
            task=self.ticket.task,
            prompt=self.ticket.prompt,
            text=self.text,
            answer=self.ticket.answer,
            segments=tuple(self._segments),
            stop=self.stop,
            generated_s=generated_s,
            episode=str(self.key),
        )

    def _append(self, segment: Segment) -> None:
        parent = len(self._segments) - 1
        self._segments.append(msgspec.structs.replace(segment, parent=parent))

    def _seed(self) -> int | None:
        """Return the seed of the next turn: two turns do not draw the same numbers."""
        seed = self._sampling.seed
        return seed if seed is None or not self._turns else _derived(f"{seed} turn {self._turns}")


def sampling_of(ticket: Ticket, sample: int, eos_id: int) -> Sampling:
    """Return how one answer is drawn: it ends at eos at least, and a seed is its own."""
    sampling = ticket.sampling
    if not sampling.stop_ids:
        sampling = msgspec.structs.replace(sampling, stop_ids=(eos_id,))
    if sampling.seed is not None:
        seed = _derived(f"{ticket.key}#{sample} {sampling.seed}")
        sampling = msgspec.structs.replace(sampling, seed=seed)
    return sampling


def _derived(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
