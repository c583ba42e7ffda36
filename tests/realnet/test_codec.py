"""Records to bytes and back; only declared errors for damaged bytes."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from realnet import Message, wire
from realnet.codec import MAX_FRAMES, Codec
from realnet.errors import TooLarge, UnknownKind, WireError


class Inner(Message):
    name: str
    weight: float = 0.5


class Small(Message):
    number: int
    text: str


class Sample(Message):
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    inner: Inner
    tags: tuple[str, ...] = ()
    note: str | None = None


def sample(n: int = 5) -> Sample:
    return Sample(np.arange(n, dtype=np.int32), np.linspace(-3, 0, n, dtype=np.float32), Inner("x"))


@pytest.mark.parametrize("n", [0, 1, 5, 20_000, 300_000])
def test_arrays_come_back_exact(n: int) -> None:
    codec = Codec([Sample])
    body, frames = codec.encode(sample(n))
    assert body.frames == len(frames) == (2 if n >= 20_000 else 0)
    back = codec.decode(body, frames)
    assert isinstance(back, Sample)
    assert np.array_equal(back.ids, sample(n).ids)
    assert np.array_equal(back.logprobs, sample(n).logprobs)
    assert back.inner == Inner("x")


def test_shapes_and_dtypes() -> None:
    class Any3(Message):
        array: npt.NDArray[Any]

    codec = Codec([Any3])
    for dtype in ("bool", "uint8", "int64", "float16", "float64", "uint16"):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)[:, ::2]
        back = codec.copy(Any3(array))
        assert isinstance(back, Any3)
        assert back.array.dtype == array.dtype
        assert np.array_equal(back.array, array)
    with pytest.raises(WireError, match=r"Any3 cannot be sent: \$.array .*complex"):
        codec.encode(Any3(np.zeros(3, complex)))


def test_any_msgpack_reader_understands_a_batch() -> None:
    codec = Codec([Sample])
    body, _ = codec.encode(sample())
    head = wire.Head(wire.PROTOCOL, "run", "b/0~1", "a/0~1", 0, 1)
    plain = msgpack.unpackb(codec.encode_batch(head, [(7, wire.Item(3, "k", 1, body))]))
    assert plain[0][:6] == [wire.PROTOCOL, "run", "b/0~1", "a/0~1", 0, 1]
    ((number, op),) = plain[1]
    assert number == 7
    assert op[1:4] == [3, "k", 1]
    assert op[4][0] == "Sample"


def test_fields_may_be_added_at_the_end() -> None:
    class Old(Message):
        a: int

    class New(Message):
        a: int
        b: str = "later"

    old, _ = Codec([Old]).encode(Old(1))
    assert Codec([New]).decode(wire.Body("New", old.raw), []) == New(1)
    new, _ = Codec([New]).encode(New(1, "x"))
    assert Codec([Old]).decode(wire.Body("Old", new.raw), []) == Old(1)


def test_errors_name_kind_field_and_sender() -> None:
    codec = Codec([Sample])
    with pytest.raises(UnknownKind, match=r"'Sampel'.*Did you mean \"Sample\""):
        codec.decode(wire.Body("Sampel", msgspec.Raw(b"\x90")), [])
    wrong = msgspec.msgpack.encode([1, 2, 3])
    with pytest.raises(WireError, match="Sample from worker/1 is damaged"):
        codec.decode(wire.Body("Sample", msgspec.Raw(wrong)), [], "worker/1")
    with pytest.raises(TooLarge, match="frames"):
        codec.decode_batch([b"x"] * (MAX_FRAMES + 1))
    batch = codec.encode_batch(wire.Head(99, "run", "b/0~1", "a/0~1", 0, 1))
    with pytest.raises(WireError, match=f"speaks protocol 99, this run is {wire.PROTOCOL}"):
        codec.decode_batch([batch])


def test_two_types_of_one_name_are_refused() -> None:
    codec = Codec([Sample])
    with pytest.raises(WireError, match="two record types are called Sample"):
        codec.register(type("Sample", (Message,), {}))


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bytes_give_declared_errors_only(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    codec = Codec([Sample])
    body, _ = codec.encode(sample())
    head = wire.Head(wire.PROTOCOL, "run", "b/0~1", "a/0~1", 0, 1)
    header = codec.encode_batch(head, [(1, wire.Item(3, "k", 1, body))])
    for _ in range(5000):
        damaged = bytearray(header)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            batch = codec.decode_batch([bytes(damaged)])
            for _, op in batch.ops:
                if isinstance(op, wire.Item):
                    codec.decode(op.body, [])
        except WireError:
            continue


def test_a_record_that_cannot_be_written_leaves_the_batch_as_it_was() -> None:
    """A float of another class passes for one until it is written."""
    codec, buffer = Codec([Small]), bytearray(b"before")
    bad = Small(type("Seconds", (float,), {})(3), "x")  # type: ignore[arg-type]
    with pytest.raises(WireError, match="Small cannot be sent"):
        codec.put_call(buffer, 7, 5, 1.5, 8, bad)
    with pytest.raises(WireError, match="Small cannot be sent"):
        codec.put_reply(buffer, 7, 5, bad)
    assert buffer == b"before"


def test_calls_written_directly_are_the_same_bytes() -> None:
    codec, request = Codec([Sample]), Small(3, "x")
    ways, plain = bytearray(), bytearray()
    assert codec.put_call(ways, 7, 5, 1.5, 8, request)
    assert codec.put_reply(ways, 7, 5, request)
    body, frames = codec.pack(request)
    codec.put(plain, 7, wire.Call(5, 1.5, body, 0, 8, 5))
    codec.put(plain, 7, wire.Reply(5, body))
    assert not frames
    assert ways == plain
    assert not codec.put_reply(ways, 7, 5, sample()), "it holds an array"
    begin = codec.open_batch("run", "a/0~1", "b/0~1", 2)
    head = wire.Head(wire.PROTOCOL, "run", "a/0~1", "b/0~1", 2, 300, 299)
    frame = bytearray(begin) + plain
    codec.close_batch(frame, begin, 300, 299, 2)
    batch = codec.decode_batch([frame])
    assert batch.head == head
    assert [type(op) for _, op in batch.ops] == [wire.Call, wire.Reply]
