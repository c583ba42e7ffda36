"""What vLLM gave, cut where the version changed: deltas of one version each.

Knows vLLM's outputs, of one release. Called by `engine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from realnet.errors import RealnetError
from realnet.roles.messages import Delta, Version


def starts_of(part: Any, state: Any) -> list[tuple[str, int]]:
    """Return where in the answer each version begins, as far as it is written."""
    if state is not None:
        return list(state.weight_version_starts)
    return [(span.version, span.start) for span in part.weight_versions or ()]


def deltas_of(
    part: Any,
    starts: Sequence[tuple[str, int]],
    written: int,
    names: Mapping[str, Version],
    version: Version,
    finish: str,
) -> Iterator[Delta]:
    """Yield what came after `written` tokens.

    `starts` says where versions begin, `names` which they are; `version` is that of an answer in
    which nothing was written. Raises RealnetError for tokens without log-probabilities.
    """
    count = len(part.token_ids)
    ids = np.array(part.token_ids, np.int32)
    logprobs = np.array(part.logprobs.logprobs if count else (), np.float32)
    if len(logprobs) != count:
        raise RealnetError(f"vLLM gave {count} tokens and {len(logprobs)} log-probabilities")
    cuts = [max(0, start - written) for _, start in starts[1:]]
    ends = [min(cut, count) for cut in cuts] + [count]
    begin = 0
    for (name, _), end in zip(starts, ends, strict=True):
        if end > begin:
            version = names[name]
            last = finish if end == count else ""
            yield Delta(ids[begin:end], logprobs[begin:end], version, last)
            begin = end
    if count == 0 and finish:
        yield Delta(ids, logprobs, version, finish)
