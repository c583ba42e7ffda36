r"""The built-in rewards: "exact", "numeric", "math", "format" and "length".

The first three look only at what follows the thinking: the text after </think>, or all of it when
there is none. Runs inside a worker process, so that nothing here bounds its own time.

Knows nothing of processes or references. Called through `references.resolve`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable
from math import isclose
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


def numeric(prompt: str, text: str, answer: str) -> float:
    """Return 1.0 when the last number of the final answer equals the reference's last number.

    Numbers may have a sign, thousands separators, decimals and an exponent; equal is within a
    millionth. A reference without a number raises ValueError: there is nothing to judge by.
    """
    del prompt
    wanted = _last_number(answer)
    if wanted is None:
        raise ValueError(f"the reference answer {answer!r} has no number")
    if THINK_CLOSE not in text and THINK_OPEN in text:
        return 0.0  # still thinking: it gave no answer
    found = _last_number(text.rpartition(THINK_CLOSE)[2])
    return float(found is not None and isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9))


def well_formed(prompt: str, text: str, answer: str, *, stop: str) -> float:
    """Return 1.0 for thinking that is opened and closed once, then an answer, then a stop.

    The opening mark may stand at the end of the prompt instead.
    """
    del answer
    whole = (THINK_OPEN if prompt.rstrip().endswith(THINK_OPEN) else "") + text
    opening, closing = whole.find(THINK_OPEN), whole.find(THINK_CLOSE)
    once = whole.count(THINK_OPEN) == whole.count(THINK_CLOSE) == 1
    if stop != "stop" or not once or opening > closing or whole[:opening].strip():
        return 0.0
    return float(bool(whole[closing + len(THINK_CLOSE) :].strip()))


def length(prompt: str, text: str, answer: str) -> float:
    """Return the length of the answer, thinking included, in thousands of characters.

    To be weighed with less than 0: `length = -0.1` takes a tenth for a thousand characters.
    """
    del prompt, answer
    return len(text) / 1000.0


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")

BUILT_IN: dict[str, Callable[..., float]] = {
    "exact": exact,
    "numeric": numeric,
    "math": math,
    "format": well_formed,
    "length": length,
}
