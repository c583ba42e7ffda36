"""Arrays and tensors travel exactly; what does not travel is refused with its field's name."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from realnet import Message
from realnet.arrays import DTYPES, FRAME, INLINE, NUMPY_DTYPES
from realnet.codec import Codec
from realnet.errors import WireError
from realnet.wire import Body


class Weights(Message):
    tensor: torch.Tensor
    maybe: torch.Tensor | None = None
    named: dict[str, torch.Tensor] = {}


class Plain(Message):
    array: npt.NDArray[Any]


class Inner(Message):
    array: npt.NDArray[np.float32]


class Outer(Message):
    inners: tuple[Inner, ...]
    anything: Any = None


CODEC = Codec([Weights, Plain, Outer])


def back(tensor: torch.Tensor, codec: Codec = CODEC) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of buffers that are not writable, above all
        record = codec.copy(Weights(tensor))
    assert isinstance(record, Weights)
    return record.tensor


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def bits(t: torch.Tensor) -> bytes:
        flat = t.detach().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""

    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7,), (2, 3, 4), (70_000,), (300, 400)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    dtype = getattr(torch, name)
    size = max(1, dtype.itemsize * int(np.prod(shape)))
    rng = np.random.default_rng(size)
    random_bytes = rng.integers(0, 2 if name == "bool" else 256, size, np.uint8)
    if 0 in shape:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.from_numpy(random_bytes).view(dtype).reshape(shape)
    assert same_bits(back(tensor), tensor)


@pytest.mark.parametrize("n", [4, 400])
def test_views_gradients_and_parameters_travel_by_value(n: int) -> None:
    grid = torch.randn(n, n)
    assert torch.equal(back(grid.t()), grid.t())
    assert torch.equal(back(grid[1::2, ::3]), grid[1::2, ::3])
    assert torch.equal(back(grid[:1].expand(5, n)), grid[:1].expand(5, n))
    parameter = torch.nn.Parameter(grid)
    came = back(parameter * 2)
    assert not came.requires_grad
    assert type(back(parameter)) is torch.Tensor
    assert torch.equal(back(parameter), grid)


def test_large_tensors_are_not_copied_and_small_ones_are_aligned() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.zeros(100_000, dtype=dtype)
        body, frames = CODEC.encode(Weights(tensor))
        came = CODEC.decode(body, frames)
        assert isinstance(came, Weights)
        assert came.tensor.data_ptr() == tensor.data_ptr()  # the frame is the sender's memory here
        del body, frames
        assert came.tensor.sum() == 0
        unaligned = memoryview(b"." + bytes(CODEC.encode(Weights(tensor))[1][0]))[1:]
        body, _ = CODEC.encode(Weights(tensor))
        came = CODEC.decode(body, [unaligned])
        assert isinstance(came, Weights)
        assert came.tensor.data_ptr() % 8 == 0
        assert back(tensor[:9]).data_ptr() % 8 == 0


def test_tensors_outlive_the_message_and_its_sender() -> None:
    body, frames = CODEC.encode(Weights(torch.full((100_000,), 7.0)))
    received = [bytes(f) for f in frames]
    came = CODEC.decode(body, received)
    assert isinstance(came, Weights)
    del body, frames, received
    assert bool((came.tensor == 7).all())


def test_numpy_arrays_that_came_are_read_only_even_from_writable_memory() -> None:
    array = np.zeros(100_000, np.float32)
    for came in (CODEC.copy(Plain(array)), CODEC.copy(Plain(array[:5]))):
        assert isinstance(came, Plain)
        with pytest.raises(ValueError, match="read-only"):
            came.array[0] = 1
    body, frames = CODEC.encode(Plain(array))
    came = CODEC.decode(body, [bytearray(f) for f in frames])
    assert isinstance(came, Plain)
    assert not came.array.flags.writeable


def test_tensors_beside_others_in_a_record() -> None:
    record = Weights(torch.ones(2), torch.arange(3), {"b": torch.ones(1, dtype=torch.bfloat16)})
    came = CODEC.copy(record)
    assert isinstance(came, Weights)
    assert came.maybe is not None
    assert came.maybe.tolist() == [0, 1, 2]
    assert came.named["b"].dtype == torch.bfloat16


def test_the_field_of_the_receiver_decides_between_numpy_and_torch() -> None:
    body, frames = CODEC.encode(Plain(np.arange(5.0)))
    came = CODEC.decode(Body("Weights", body.raw), frames)
    assert isinstance(came, Weights)
    assert came.tensor.tolist() == [0, 1, 2, 3, 4]
    body, frames = CODEC.encode(Weights(torch.arange(5)))
    plain = CODEC.decode(Body("Plain", body.raw), frames)
    assert isinstance(plain, Plain)
    assert plain.array.tolist() == [0, 1, 2, 3, 4]
    body, frames = CODEC.encode(Weights(torch.ones(5, dtype=torch.bfloat16)))
    with pytest.raises(WireError, match=r"bfloat16 array came, .* at \$\.array$"):
        CODEC.decode(Body("Plain", body.raw), frames, "a/0")


def test_what_does_not_travel_is_told_with_its_field() -> None:
    elsewhere = torch.zeros(3, device="meta")  # stands for any device: a machine may have no other
    with pytest.raises(WireError, match=r"Weights cannot be sent: \$\.tensor .* on meta .*\.cpu\("):
        CODEC.encode(Weights(elsewhere))
    with pytest.raises(WireError, match=r"\$\.named\['w'\] holds a Tensor: .*complex64"):
        CODEC.encode(Weights(torch.ones(1), named={"w": torch.ones(1, dtype=torch.complex64)}))
    with pytest.raises(WireError, match=r"\$\.maybe .*sparse"):
        CODEC.encode(Weights(torch.ones(1), torch.eye(3).to_sparse()))
    with pytest.raises(WireError, match=r"Outer cannot be sent: \$\.inners\[1\]\.array .*>f4"):
        CODEC.encode(Outer((Inner(np.ones(1, "f4")), Inner(np.ones(1, ">f4")))))
    with pytest.raises(WireError, match=r"\$\.anything\['x'\]\[2\] holds a object: a object does"):
        CODEC.encode(Outer((), {"x": [1, 2, object()]}))
    with pytest.raises(WireError, match=r"\$\.array .*9 dimensions .*8 at most"):
        CODEC.encode(Plain(np.ones((1,) * 9)))
    with pytest.raises(WireError, match=r"\$\.anything holds a int: .*"):
        CODEC.encode(Outer((), 2**70))
    came = CODEC.copy(Outer((), "and the codec still works"))
    assert isinstance(came, Outer)


def head(code: int, *shape: int) -> bytes:
    return struct.pack(f"<BB{len(shape)}q", code, len(shape), *shape)


F32 = NUMPY_DTYPES.index("float32")
BF16 = DTYPES.index("bfloat16")


@pytest.mark.parametrize(
    ("code", "data", "says"),
    [
        (INLINE, b"", "without a head"),
        (INLINE, b"\x01", "without a head"),
        (INLINE, head(200, 1) + bytes(4), "dtype code 200"),
        (INLINE, bytes([F32, 9]) + bytes(100), "9 dimensions"),
        (INLINE, bytes([F32, 3]) + bytes(8), "3 dimensions"),
        (INLINE, head(F32, 2) + bytes(4), r"shape \[2\] came with 4 bytes"),
        (INLINE, head(F32, 1) + bytes(5), "came with 5 bytes"),
        (INLINE, head(F32, -1) + bytes(4), r"shape \[-1\]"),
        (INLINE, head(F32, -1, -1) + bytes(4), r"shape \[-1, -1\]"),
        (INLINE, head(F32, 2**62, 4) + bytes(4), "came with 4 bytes"),
        (INLINE, head(F32, 2**32, 2**32) + bytes(4), "came with 4 bytes"),
        (INLINE, head(F32, 0, 2**62, 2**62), "at"),
        (INLINE, head(BF16, 0, 2**62, 2**62), "at"),
        (INLINE, head(BF16, 3) + bytes(4), "bfloat16"),
        (FRAME, head(F32, 1) + struct.pack("<I", 1), "frame 1, and 1 frames came"),
        (FRAME, head(F32, 1) + struct.pack("<I", 2**32 - 1), "and 1 frames came"),
        (FRAME, head(F32, 1) + b"\x00", "it is in frame 0"),
        (FRAME, head(F32, 2) + struct.pack("<I", 0), r"shape \[2\] came with 4 bytes"),
        (77, head(F32, 1) + bytes(4), "extension type 77"),
    ],
)
def test_damaged_arrays_name_kind_sender_and_field(code: int, data: bytes, says: str) -> None:
    ext = msgspec.msgpack.Ext(code, data)
    raw = msgspec.Raw(msgspec.msgpack.encode([[[ext]]]))
    with pytest.raises(WireError, match=says) as told:
        CODEC.decode(Body("Outer", raw, 1), [bytes(4)], "worker/3~1")
    assert "Outer from worker/3~1 is damaged" in str(told.value)
    assert "at $.inners[0].array" in str(told.value)
    anything = msgspec.Raw(msgspec.msgpack.encode([[], [1, ext]]))
    with pytest.raises(WireError, match="Outer from worker/3~1 is damaged"):
        CODEC.decode(Body("Outer", anything, 1), [bytes(4)], "worker/3~1")
    assert CODEC.decode(Body("Outer", msgspec.Raw(msgspec.msgpack.encode([[]]))), []) == Outer(())


def test_a_process_without_torch_sends_reads_and_refuses_without_importing_it() -> None:
    code = f"""
import sys, msgspec, numpy as np, numpy.typing as npt
from typing import Any
from realnet import Message
from realnet.codec import Codec
from realnet.wire import Body
class Plain(Message):
    array: Any
codec = Codec([Plain])
assert codec.copy(Plain(np.arange(3))).array.tolist() == [0, 1, 2]
raw = msgspec.msgpack.encode([msgspec.msgpack.Ext({INLINE}, bytes.fromhex("{head(BF16, 1).hex()}00"
"00"))])
try:
    codec.decode(Body("Plain", msgspec.Raw(raw)), [], "a/0")
except Exception as error:
    print(type(error).__name__, error)
assert "torch" not in sys.modules
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("WireError Plain from a/0 is damaged: a bfloat16 array came")
