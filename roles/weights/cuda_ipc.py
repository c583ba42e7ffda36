"""A version in the memory of one GPU, handed to another process on the same GPU.

The sender packs a version into one buffer and gives out its handle: plain bytes and numbers in a
record, nothing pickled. The receiver maps the buffer and clones what it keeps; the sender writes
into the buffer again only when every receiver has said that it is done.

This has never run: it was written without a GPU at hand, and no source of a parameter server offers
it yet. Where there is no GPU it is refused by name. torch is imported here and in `collective.py`
only.
"""

from __future__ import annotations

from typing import Any

import torch

from realnet.errors import RealnetError
from realnet.message import Message


class CudaHandle(Message):
    """A buffer on a GPU: what `torch.UntypedStorage._share_cuda_` says of it."""

    device_uuid: str
    handle: bytes
    storage_bytes: int
    storage_offset_bytes: int
    ref_counter: bytes
    ref_counter_offset: int
    event: bytes
    event_sync: bool
    num_bytes: int


def share(buffer: torch.Tensor) -> CudaHandle:
    """Return the handle of a uint8 buffer on a GPU, which the sender keeps alive."""
    _check()
    if buffer.device.type != "cuda" or buffer.dtype != torch.uint8:
        raise RealnetError(f"a buffer of {buffer.dtype} on {buffer.device} has no CUDA handle")
    storage: Any = buffer.untyped_storage()
    _, handle, size, offset, counter, counter_offset, event, sync = storage._share_cuda_()
    uuid = str(torch.cuda.get_device_properties(buffer.device).uuid)
    return CudaHandle(
        *(uuid, handle, size, offset, counter, counter_offset, event, sync), buffer.numel()
    )


def opened(handle: CudaHandle) -> torch.Tensor:
    """Return the sender's buffer [num_bytes], mapped: clone what is to stay."""
    _check()
    storage: Any = torch.UntypedStorage
    mapped = storage._new_shared_cuda(
        *(_device(handle.device_uuid), handle.handle, handle.storage_bytes),
        *(handle.storage_offset_bytes, handle.ref_counter, handle.ref_counter_offset),
        *(handle.event, handle.event_sync),
    )
    return torch.empty(0, dtype=torch.uint8, device=mapped.device).set_(mapped)[: handle.num_bytes]


def _device(uuid: str) -> int:
    """Return the number that a GPU has in this process."""
    for number in range(torch.cuda.device_count()):
        if str(torch.cuda.get_device_properties(number).uuid) == uuid:
            return number
    raise RealnetError(f"the weights are on GPU {uuid}, which this process does not see")


def _check() -> None:
    if not torch.cuda.is_available():
        raise RealnetError("cuda_ipc needs a GPU that both roles share, and there is none here")
