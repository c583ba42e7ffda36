r"""The built-in rewards: "exact" and "math".

Both look only at what follows the thinking: the text after </think>, or all of it when there is
none. Runs inside a worker process, so that nothing here bounds its own time. Knows nothing of
processes or references. Called through `references.resolve`.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


def exact(prompt: str, text: str, answer: str, *, stop: str) -> float:
    """Return 1.0 when the final answer is, letter for letter, the reference answer.

    An answer that ended for another reason than a stop token is unfinished and scores 0, and so
    does one that closes its thinking twice.
    """
    del prompt
    if stop != "stop" or text.count(THINK_CLOSE) > 1:
        return 0.0
    final = text.partition(THINK_CLOSE)[2] if THINK_CLOSE in text else text
    return float(final.strip() == answer.strip())


def math(prompt: str, text: str, answer: str) -> float:
    r"""Return 1.0 when the final answer equals the reference as a number or expression.

    A \boxed{} is looked for first, then LaTeX, then the last number. An answer that no parser can
    read is wrong; a reference that none can read raises ValueError: there is nothing to judge by.
    """
    del prompt
    if THINK_CLOSE in text:
        text = text.rpartition(THINK_CLOSE)[2]
    elif THINK_OPEN in text:
        return 0.0  # still thinking: it gave no answer
    gold = _gold(answer)
    verify = _math_verify()
    try:
        found = verify.parse(text, parsing_timeout=None, raise_on_error=True)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # whatever a parser says of text that a model wrote: it is no answer
        return 0.0
    if not found:
        return 0.0
    return float(verify.verify(list(gold), found, timeout_seconds=None, raise_on_error=True))


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> tuple[Any, ...]:
    """Parse a reference answer; the same one comes once for each answer of a group."""
    marked = "$" in answer or "\\boxed" in answer
    text = answer if marked else f"\\boxed{{{answer}}}"
    gold = _math_verify().parse(text, parsing_timeout=None, raise_on_error=True)
    if not gold:
        raise ValueError(f"the reference answer {answer!r} is no number or expression")
    return tuple(gold)


@functools.cache
def _math_verify() -> Any:
    """Import math_verify, whose own alarm-based time limits are left off.

    It would turn a time-out into "wrong"; the pool kills the process instead and says so. Its
    warning about that is not news.
    """
    module = importlib.import_module("math_verify")
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return module


BUILT_IN: dict[str, Callable[..., float]] = {"exact": exact, "math": math}
