"""The two calls that hand a buffer of a GPU to another process, and the record between them.

    share  -> DeviceHandle     what torch's storages say of themselves: numbers and bytes
    opened -> the same memory  mapped; in the process that shares it, the buffer itself

Nothing is pickled. Who may open a handle is decided here: the same host, the same user, the same
GPU; everything else is refused by name.

`Device` is the seam: what lends and borrows (`lending.py`) knows it alone, and is tested with one
that has no GPU. `CudaDevice`, the real one, has never run: it was written without a GPU at hand.
torch is imported here, in `lending.py` and in `collective.py` only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import torch

from realnet.errors import RealnetError
from realnet.message import Message
from realnet.roles.weights.sources import this_host


class DeviceHandle(Message):
    """A buffer on a GPU, and where it can be opened.

    `share` numbers the buffers of process `pid` on `host`. The fields from `memory` on are those of
    torch's shared CUDA storages; `fingerprint` is that of the bytes (`lending.py`).
    """

    host: str
    user: int
    pid: int
    share: int
    device: str
    num_bytes: int
    fingerprint: int = 0
    memory: bytes = b""
    storage_bytes: int = 0
    storage_offset_bytes: int = 0
    ref_counter: bytes = b""
    ref_counter_offset: int = 0
    event: bytes = b""
    event_sync: bool = False


class Device(Protocol):
    """One GPU of this process."""

    @property
    def uuid(self) -> str:
        """What names it in every process of the host."""

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Return a buffer of bytes."""

    def share(self, buffer: torch.Tensor) -> DeviceHandle:
        """Return the handle of a buffer, which stays as long as it is kept."""

    def open(self, handle: DeviceHandle) -> torch.Tensor:
        """Return the buffer of another process [num_bytes]."""

    def finish(self) -> None:
        """Wait until everything that was asked of the GPU is done."""


_mine: dict[int, torch.Tensor] = {}  # what this process shares: nobody opens a handle of its own


def described(buffer: torch.Tensor, device: str) -> DeviceHandle:
    """Return a handle without the part that is CUDA's, and remember the buffer."""
    known = next((n for n, b in _mine.items() if b.data_ptr() == buffer.data_ptr()), None)
    share = len(_mine) if known is None else known
    _mine[share] = buffer
    return DeviceHandle(this_host(), os.getuid(), os.getpid(), share, device, buffer.numel())


def opened(
    handle: DeviceHandle, device: str, opening: Callable[[DeviceHandle], torch.Tensor]
) -> torch.Tensor:
    """Return a handle's buffer; `opening` maps one of another process.

    Raises RealnetError for a handle of another host, user or GPU.
    """
    wrong = ""
    if handle.host != this_host():
        wrong = f"of host {handle.host}, and this is {this_host()}"
    elif handle.user != os.getuid():
        wrong = f"of user {handle.user}, and this is {os.getuid()}"
    elif handle.device != device:
        wrong = f"on GPU {handle.device}, and this process works on {device or 'none'}"
    if wrong:
        raise RealnetError(f"these weights are {wrong}: they come by another link")
    if handle.pid == os.getpid():
        if handle.share not in _mine:
            raise RealnetError("these weights are not shared any more")
        return _mine[handle.share]
    return opening(handle)


def uuid_of(device: torch.device) -> str:
    """Return what names a GPU; "" for what is none."""
    if device.type != "cuda":
        return ""
    return CudaDevice(torch.cuda.current_device() if device.index is None else device.index).uuid


def device(uuid: str) -> Device:
    """Return a GPU of this process. Raises RealnetError when it has none of that name."""
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = CudaDevice(number)
        if found.uuid == uuid:
            return found
    raise RealnetError(f"these weights are on GPU {uuid}, which this process does not see")


class CudaDevice:
    """See `Device`: GPU number `index` of this process."""

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available():
            raise RealnetError("cuda_ipc needs a GPU that both roles share, and there is none here")
        self._device = torch.device("cuda", index)

    @property
    def uuid(self) -> str:
        return str(torch.cuda.get_device_properties(self._device).uuid)

    def allocate(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def share(self, buffer: torch.Tensor) -> DeviceHandle:
        if buffer.device.type != "cuda" or buffer.dtype != torch.uint8:
            raise RealnetError(f"a buffer of {buffer.dtype} on {buffer.device} has no CUDA handle")
        storage: Any = buffer.untyped_storage()
        _, memory, size, offset, counter, counter_offset, event, sync = storage._share_cuda_()
        about = described(buffer, self.uuid)
        return DeviceHandle(
            *(about.host, about.user, about.pid, about.share, about.device, about.num_bytes),
            *(0, memory, size, offset, counter, counter_offset, event, sync),
        )

    def open(self, handle: DeviceHandle) -> torch.Tensor:
        return opened(handle, self.uuid, self._open)

    def _open(self, handle: DeviceHandle) -> torch.Tensor:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        storage: Any = torch.UntypedStorage
        mapped = storage._new_shared_cuda(
            *(self._device.index, handle.memory, handle.storage_bytes),
            *(handle.storage_offset_bytes, handle.ref_counter, handle.ref_counter_offset),
            *(handle.event, handle.event_sync),
        )
        whole = torch.empty(0, dtype=torch.uint8, device=mapped.device).set_(mapped)
        return whole[: handle.num_bytes]

    def finish(self) -> None:
        torch.cuda.synchronize(self._device)
