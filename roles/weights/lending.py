"""A version on a GPU, lent by the trainer that made it to whoever works on the same one.

    Lender.offer     copies a version into one buffer on its GPU, says that it is there
    Borrower.borrow  a Loan: the handle, and the weights as views of the lender's buffer
    Loan.end         the buffer may be written again

What guards the buffer is a slot of shared memory without weights in it, with the counters and
leases of every other slot (`arena.py`): a loan is a lease, which the system drops with its holder,
and a generation that is not the announced one is `WeightsGone`. Nobody waits: while a loan is out
the next versions are not offered, and go by the other links. A lender begins (the generation is odd
then) before it looks for loans, and a borrower takes its lease before it looks at the generation:
one of the two sees the other.

Bytes on a GPU have a fingerprint instead of a digest: the sum, modulo 2^64, of words each times an
odd number of its own. It is the same in whatever order it is added up, so the GPU can do it.

Knows devices through the seam in `cuda_ipc.py`. Called by the trainer's publication (lends), the
intake and vLLM's workers (borrow). Blocking, in threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import torch

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Location, Manifest, Source
from realnet.roles.weights.arena import ArenaSlots
from realnet.roles.weights.cuda_ipc import Device, DeviceHandle
from realnet.roles.weights.digests import WeightsDamaged, WeightsGone, check
from realnet.roles.weights.layout import ALIGN, full_dtype

LINK = "cuda_ipc"
SLOT_BYTES = ArenaSlots.slot_bytes(2**16)  # of the guard: a handle is a few hundred bytes
_WORDS = 2**22  # that are summed up at once


class Lender:
    """One buffer on one GPU. `guard` is a path to shared memory of one slot of SLOT_BYTES."""

    def __init__(self, device: Device, host: str, guard: str) -> None:
        self._device = device
        self._host = host
        self._guard = ArenaSlots(guard, 1, SLOT_BYTES)
        self._buffer: torch.Tensor | None = None

    def offer(
        self, manifest: Manifest, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Source | None:
        """Copy a version into the buffer; return where it is, or None while somebody reads.

        `weights` are on the GPU, in the manifest's order.
        """
        guard, buffer = self._guard, self._room(manifest.num_bytes)
        guard.begin(0)
        if guard.leased(0):
            return None
        placed = iter(manifest.tensors)
        for (name, weight), tensor in zip(weights, placed, strict=True):
            if name != tensor.name or tuple(weight.shape) != tensor.shape:
                raise RealnetError(f"{name} is not the {tensor.name} that is next in its version")
            end = tensor.offset_bytes + tensor.num_bytes
            flat = weight.detach().contiguous().reshape(-1).view(torch.uint8)
            buffer[tensor.offset_bytes : end].copy_(flat)
            buffer[end : end + -end % ALIGN] = 0
        self._device.finish()
        whole = buffer[: manifest.num_bytes]
        handle = msgspec.structs.replace(
            self._device.share(buffer),
            num_bytes=manifest.num_bytes,
            fingerprint=fingerprint(whole),
        )
        encoded = msgspec.msgpack.encode(handle)
        with guard.view(0) as view:
            view[:8] = len(encoded).to_bytes(8, "little")
            view[8 : 8 + len(encoded)] = encoded
        guard.commit(0, manifest, verified=True)
        return Source(LINK, self._host, self._device.uuid, guard.location(0))

    def close(self) -> None:
        """Let go of buffer and guard."""
        self._buffer = None
        self._guard.close()

    def _room(self, num_bytes: int) -> torch.Tensor:
        if self._buffer is None or self._buffer.numel() < num_bytes:
            self._buffer = self._device.allocate(num_bytes)
        return self._buffer


class Loan:
    """A version on the lender's GPU, until `end`."""

    def __init__(
        self,
        guard: ArenaSlots,
        handle: DeviceHandle,
        buffer: torch.Tensor | None,
        device: Device | None,
    ) -> None:
        self._guard = guard
        self.handle = handle
        self._buffer = buffer
        self._device = device

    def tensors(self, manifest: Manifest) -> dict[str, torch.Tensor]:
        """Return the weights, as views of the lender's buffer."""
        if self._buffer is None:
            raise RealnetError(f"{manifest.version} was borrowed for another process")
        return views(manifest, self._buffer)

    def check(self, manifest: Manifest, where: str) -> None:
        """Raise WeightsDamaged unless the lent bytes have the manifest's digests.

        Brings them to the host for it: for canaries. What another process opened it has checked
        by their fingerprint.
        """
        if self._buffer is not None:
            check(manifest, self._buffer.cpu().numpy(), where)

    def end(self) -> None:
        """Say that nothing here reads the buffer any more. May be called twice. Blocking.

        Waits for the GPU: copies that were asked of it may not have been made yet.
        """
        buffer, self._buffer = self._buffer, None
        try:
            if buffer is not None and self._device is not None:
                self._device.finish()
        finally:
            self._guard.close()  # and with it its lease


def borrow(held: Held, source: Source, device: Device | None) -> Loan:
    """Borrow a version; without `device` for another process, which opens the handle itself.

    Raises WeightsGone when it is not there any more, WeightsDamaged when it is not what was lent.
    """
    manifest, where = held.manifest, source.location
    if where is None:
        raise WeightsGone(f"{manifest.version} by {LINK}: its source has no guard")
    guard = _opened(where, manifest)
    try:
        guard.lease(0)
        guard.still(0, where.generation, manifest)
        with guard.view(0) as view:
            size = int.from_bytes(view[:8], "little")
            handle = msgspec.msgpack.decode(view[8 : 8 + size], type=DeviceHandle)
        if handle.num_bytes != manifest.num_bytes:
            raise WeightsDamaged(
                f"{manifest.version} has {manifest.num_bytes} bytes, {handle.num_bytes} are lent"
            )
        buffer = None if device is None else open_checked(handle, manifest, device)
        return Loan(guard, handle, buffer, device)
    except (WeightsGone, WeightsDamaged):
        guard.close()
        raise
    except (RealnetError, msgspec.DecodeError, RuntimeError) as error:  # torch's, of CUDA
        guard.close()
        raise WeightsGone(f"{manifest.version} by {LINK}: {error}") from error


def open_checked(handle: DeviceHandle, manifest: Manifest, device: Device) -> torch.Tensor:
    """Return the lender's buffer. Raises WeightsDamaged unless it has its fingerprint."""
    buffer = device.open(handle)[: manifest.num_bytes]
    if fingerprint(buffer) != handle.fingerprint:
        raise WeightsDamaged(f"{manifest.version} on GPU {handle.device} is damaged; not used")
    return buffer


def views(manifest: Manifest, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors of a version as views of its bytes on a GPU."""
    return dict(_views(manifest, buffer))


def _views(manifest: Manifest, buffer: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    for tensor in manifest.tensors:
        end = tensor.offset_bytes + tensor.num_bytes
        dtype: Any = getattr(torch, full_dtype(tensor.dtype))
        yield tensor.name, buffer[tensor.offset_bytes : end].view(dtype).view(tensor.size)


def fingerprint(buffer: torch.Tensor) -> int:
    """Return the fingerprint of bytes, whose number is a multiple of 8."""
    words = buffer.view(torch.int64)
    total = 0
    for at in range(0, len(words), _WORDS):
        part = words[at : at + _WORDS]
        odd = torch.arange(at, at + len(part), device=part.device).mul_(2).add_(1)
        total = (total + int((part * odd).sum())) % 2**64
    return total


def _opened(where: Location, manifest: Manifest) -> ArenaSlots:
    try:
        return ArenaSlots(where.path, 1, where.slot_bytes, writable=False)
    except (OSError, RealnetError) as error:
        raise WeightsGone(
            f"{manifest.version} by {LINK}: its guard cannot be opened ({error})"
        ) from error
