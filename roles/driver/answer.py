"""One answer in the making: its tokens, which version wrote each, and how it goes on elsewhere.

Knows records and the errors of an ask; knows nothing of actors or text. Called by the driver.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import msgspec
import numpy as np

from realnet.errors import AskError, DeadlineExceeded, NoPeer, RealnetError, Refused
from realnet.roles.messages import Delta, Floats, Generate, Ints, Segment, Span

ATTEMPTS = 5  # failures in a row without one new token, before an answer is given up
REFUSALS = 3  # the same, when the last one was a generator that said no
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

Ask = Callable[[Generate], AsyncIterator[Delta]]
Pause = Callable[[float], Awaitable[None]]


class Partial:
    """The tokens of one answer so far, with exact spans."""

    def __init__(self) -> None:
        self._tokens: list[Ints] = []
        self._logprobs: list[Floats] = []
        self._spans: list[Span] = []
        self.length = 0
        self.continued = 0

    @property
    def tokens(self) -> Ints:
        """All tokens so far."""
        return np.concatenate([np.zeros(0, np.int32), *self._tokens])

    def add(self, delta: Delta) -> None:
        """Append what one delta brought."""
        count = len(delta.token_ids)
        if len(delta.logprobs) != count:
            raise RealnetError(
                f"a delta of {delta.version} has {count} tokens and {len(delta.logprobs)} "
                f"log-probabilities: that engine is broken"
            )
        if not count:
            return
        self.length += count
        self._tokens.append(delta.token_ids)
        self._logprobs.append(delta.logprobs)
        if self._spans and self._spans[-1].version == delta.version:
            count += self._spans.pop().length
        self._spans.append(Span(delta.version, count))

    def segment(self) -> Segment:
        """Return the answer as a segment to learn from."""
        logprobs = np.concatenate([np.zeros(0, np.float32), *self._logprobs])
        return Segment("model", self.tokens, logprobs, tuple(self._spans), learn=True, parent=0)


async def write(ask: Ask, request: Generate, partial: Partial, pause: Pause) -> str:
    """Ask until the answer is finished; return "stop" or "length".

    When a generator dies, stops, or takes too long, what it wrote stays and another goes on after
    it. Waiting for a generator has no end; failing has: the last error of ATTEMPTS in a row that
    brought no token is raised (of REFUSALS, when a generator said no: it will say so again).
    """
    failures = 0
    while True:
        finish = _finished(request, partial)
        if finish:
            return finish
        before = partial.length
        error: RealnetError
        try:
            finish = await _once(ask, request, partial)
            if finish in ("stop", "length"):
                return finish
            error = RealnetError(f"a generator ended an answer with {finish or 'nothing'!r}")
        except AskError as failed:
            error = failed
        partial.continued += 1
        if partial.length > before:
            failures = 0
        elif not isinstance(error, DeadlineExceeded | NoPeer):
            failures += 1
        if failures >= (REFUSALS if isinstance(error, Refused) else ATTEMPTS):
            raise error
        await pause(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**failures))


async def _once(ask: Ask, request: Generate, partial: Partial) -> str:
    """Ask one generator to go on, until it ends or fails; return its finish."""
    going_on = msgspec.structs.replace(request, tokens_so_far=partial.tokens)
    async with aclosing(_closable(ask(going_on))) as deltas:
        async for delta in deltas:
            partial.add(delta)
            if delta.finish:
                return delta.finish
    return ""


def _finished(request: Generate, partial: Partial) -> str:
    """Tell whether the tokens so far are a whole answer: the generator died before it said so."""
    if partial.length and int(partial.tokens[-1]) in request.sampling.stop_ids:
        return "stop"
    return "length" if partial.length >= request.sampling.max_tokens else ""


async def _closable(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """Pass deltas on, and close their source when this is closed."""
    try:
        async for delta in deltas:
            yield delta
    finally:
        close = getattr(deltas, "aclose", None)
        if close is not None:
            await close()
