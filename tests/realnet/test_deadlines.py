"""The wheel: told late by a grain at most, never early, and one that fails takes none with it."""

from __future__ import annotations

import asyncio
from typing import Any

from realnet.deadlines import GRAIN_S, Deadlines


class _Item:
    def __init__(self, told: list[str], name: str, fails: bool = False):
        self._told, self._name, self._fails = told, name, fails

    def expire(self) -> None:
        self._told.append(self._name)
        if self._fails:
            raise ValueError(self._name)


async def test_one_that_cannot_be_told_takes_no_others_with_it() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    wheel, told = Deadlines(loop.time), []
    at_s = loop.time() + GRAIN_S
    done = asyncio.Event()
    wheel.add(_Item(told, "a", fails=True), at_s)
    wheel.add(_Item(told, "b"), at_s)
    wheel.add(_Item(told, "c"), at_s + 3 * GRAIN_S)
    last = _Item(told, "last")
    last.expire = done.set  # type: ignore[method-assign]
    wheel.add(last, at_s + 5 * GRAIN_S)
    await done.wait()
    wheel.close()
    assert told == ["a", "b", "c"]
    assert [str(c["exception"]) for c in complaints] == ["a"]


async def test_one_that_is_called_off_is_not_told() -> None:
    loop = asyncio.get_running_loop()
    wheel, told = Deadlines(loop.time), []
    item = _Item(told, "a")
    bucket = wheel.add(item, loop.time() + GRAIN_S)
    assert len(wheel) == 1
    bucket.pop(item)
    done = asyncio.Event()
    last = _Item(told, "last")
    last.expire = done.set  # type: ignore[method-assign]
    wheel.add(last, loop.time() + 2 * GRAIN_S)
    await done.wait()
    wheel.close()
    assert told == []
