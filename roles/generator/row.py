"""One request inside an engine: its tokens, where it stands, and what of it was sent.

Knows no engine and no torch. Called by both engines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from realnet.errors import RealnetError
from realnet.roles.messages import Delta, Generate, Version

Finish = str


class Row:
    """Tokens of one request: prompt, tokens so far, and what this engine wrote after them."""

    def __init__(self, request_id: int, request: Generate, context: int, seed: int) -> None:
        before = len(request.tokens_so_far)
        self.id = request_id
        self.request = request
        self.seed = seed
        self.start = len(request.prompt_ids) + before
        self.room = max(0, min(request.sampling.max_tokens - before, context - self.start))
        self.drawn = before  # index of the next draw: the same after a move to another engine
        self.ids = np.empty(self.start + self.room, np.int32)
        self.ids[: self.start] = np.concatenate([request.prompt_ids, request.tokens_so_far])
        self.logprobs = np.empty(self.room, np.float32)
        self.written = 0
        self.sent = 0

    @property
    def length(self) -> int:
        """Prompt, tokens so far and written tokens."""
        return self.start + self.written

    @property
    def left(self) -> int:
        """Tokens that may still be written."""
        return self.room - self.written

    @property
    def unsent(self) -> int:
        """Tokens written and not yet sent."""
        return self.written - self.sent

    def write(self, tokens: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> None:
        """Append tokens and their log-probabilities."""
        end = self.written + len(tokens)
        self.ids[self.length : self.start + end] = tokens
        self.logprobs[self.written : end] = logprobs
        self.drawn += len(tokens)
        self.written = end

    def delta(self, version: Version | None, finish: Finish = "") -> Delta:
        """Return what was not sent yet; `version` wrote it."""
        ids = self.ids[self.start + self.sent : self.length].copy()
        logprobs = self.logprobs[self.sent : self.written].copy()
        self.sent = self.written
        # Without a version nothing was written: an aborted request that still waited for one.
        return Delta(ids, logprobs, version or Version(self.request.policy, 0, 0), finish)


class Inbox:
    """Requests and aborts that arrive from another thread, taken between tokens."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[int, Row | None]] = deque()

    def submit(self, row: Row) -> None:
        self._arrived.append((row.id, row))

    def abort(self, request_id: int) -> None:
        self._arrived.append((request_id, None))

    def num_submitted(self) -> int:
        return sum(1 for _, row in tuple(self._arrived) if row is not None)

    def take(self) -> list[tuple[int, Row | None]]:
        """Return what arrived, in order: a row for a request, None for an abort."""
        taken = []
        while self._arrived:
            taken.append(self._arrived.popleft())
        return taken


def continued(request: Generate, written: Sequence[Delta]) -> Generate:
    """Return the request for what is left of an answer after these deltas."""
    tokens = [request.tokens_so_far, *(delta.token_ids for delta in written)]
    return msgspec.structs.replace(request, tokens_so_far=np.concatenate(tokens))


def check(request: Generate, vocab_size: int) -> None:
    """Refuse a request that no engine of this vocabulary can serve."""
    if len(request.prompt_ids) == 0:
        raise RealnetError("Generate with an empty prompt: there is nothing to continue")
    for name, ids in (("prompt_ids", request.prompt_ids), ("tokens_so_far", request.tokens_so_far)):
        if len(ids) and (int(np.min(ids)) < 0 or int(np.max(ids)) >= vocab_size):
            raise RealnetError(
                f"Generate.{name} holds token ids outside 0..{vocab_size - 1}: the asker's "
                f"tokenizer is not this policy's"
            )
