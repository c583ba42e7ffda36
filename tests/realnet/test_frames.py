"""What a live node sends: any MessagePack reader reads it; sent in another's name it is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from realnet.arrays import DTYPES, FRAME, INLINE
from realnet.testing.target import FRIEND, TALKER, Frames, Target, capture
from realnet.transport.memory import MemoryNetwork


def extensions(value: Any) -> list[msgpack.ExtType]:
    if isinstance(value, msgpack.ExtType):
        return [value]
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        return [found for item in inside for found in extensions(item)]
    return []


async def test_any_msgpack_reader_reads_every_frame_of_a_live_node() -> None:
    messages = await capture()
    seen: set[int] = set()
    for header, *frames in messages:
        for ext in extensions(msgpack.unpackb(header)):  # one object a header, or it raises
            dtype, ndim = ext.data[:2]
            shape = np.frombuffer(ext.data, "<i8", ndim, 2)
            payload = ext.data[2 + 8 * ndim :]
            if ext.code == FRAME:
                size = np.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
                assert size in {len(f) for f in frames}
                assert len(payload) == 4
            else:
                assert len(np.frombuffer(payload, DTYPES[dtype])) == np.prod(shape)
            seen.add(ext.code)
    assert seen == {INLINE, FRAME}
    assert sum(len(m) > 1 for m in messages) >= 3


async def fed(messages: list[Frames]) -> tuple[Target, list[str]]:
    target, told = Target(MemoryNetwork(), talker=False), []
    target.node.on_wire_error = lambda error: told.append(str(error))
    for message in messages:
        target.feed(message)
    assert await target.answers()  # all else goes on
    return target, told


def renamed(value: Any, old: str, new: str) -> Any:
    if isinstance(value, list):
        return [renamed(item, old, new) for item in value]
    return new if value == old else value


async def test_what_is_sent_in_the_name_of_another_actor_is_refused_and_told() -> None:
    stolen = []
    for header, *frames in await capture():
        head, ops = msgpack.unpackb(header)
        stolen.append([msgpack.packb([head, renamed(ops, TALKER, FRIEND)]), *frames])
    target, told = await fed(stolen)
    assert told == [f"refused what {TALKER} sent in the name of {FRIEND}"]
    assert target.cells[target.node.slot].serving.answered == 1  # the honest peer's ask
    await target.close()


async def test_a_record_of_another_run_played_again_is_refused_and_told() -> None:
    old = []
    for header, *frames in await capture():
        now = msgpack.unpackb(header)
        old.append([msgpack.packb(renamed(now, "fuzz (attempt 1)", "fuzz (attempt 0)")), *frames])
    target, told = await fed(old)
    (text,) = told
    assert f"refused a batch from {TALKER} of run 'fuzz (attempt 0)'" in text
    assert target.cells[target.node.slot].serving.answered == 1
    await target.close()


async def test_another_incarnation_that_nobody_was_told_of_delivers_nothing() -> None:
    other = []
    for header, *frames in await capture():
        changed = renamed(msgpack.unpackb(header), TALKER, TALKER.replace("~1", "~2"))
        other.append([msgpack.packb(changed), *frames])
    target, _ = await fed(other)
    assert target.cells[target.node.slot].serving.answered == 1
    await target.close()
