"""A group that broadcasts versions: gloo on CPUs, nccl on GPUs, through torch.distributed.

Buckets go one after another, two in flight: while one is on its way the one before is summed up
(and, on a GPU, copied). Rank 0 sends from its memory; the others receive into room that they made
before. Process groups are made directly, never the global one: several can be in one process, and
one can be dropped and built again while others work.

The store and gloo listen on one address, that of the sender's host, never on all; neither knows
keys, so they are for hosts that trust their network. A member that stands still makes every other
fail after `timeout_s`, and no later.

torch is imported here, in `nccl.py`, `cuda_ipc.py` and `lending.py` only. Blocking: called in
threads, by `updates.py` (the sender) and `receiver.py`. Knows nothing of who takes part, or of what
it carries.
"""

from __future__ import annotations

import socket
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed

from realnet.errors import RealnetError
from realnet.roles.messages import Bucket, Manifest
from realnet.roles.weights import nccl
from realnet.roles.weights.digests import Buffer, WeightsDamaged, digest

dist: Any = torch.distributed  # its types are there only where it was built with them
Backend = Literal["gloo", "nccl"]
IN_FLIGHT = 2
_STORE_S = 60.0


class CollectiveFailed(RealnetError):
    """A group cannot go on: somebody died, stood still, or the network did."""


class Store:
    """What the members of groups find each other by, at the sender's."""

    def __init__(self, host: str) -> None:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.bind((host, 0))
            listening.listen(128)
            self.host, self.port = host, listening.getsockname()[1]
            wait = timedelta(seconds=_STORE_S)
            self.store = dist.TCPStore(
                *(host, self.port, None, True, wait),
                wait_for_workers=False,
                master_listen_fd=listening.fileno(),
            )
        except BaseException:
            listening.close()
            raise
        listening.detach()  # the store's now


def reach_store(host: str, port: int, timeout_s: float) -> Any:
    """Return the store of a sender. Raises CollectiveFailed."""
    try:
        wait = timedelta(seconds=timeout_s)
        return dist.TCPStore(host, port, None, False, wait, wait_for_workers=False)
    except RuntimeError as error:
        raise CollectiveFailed(f"the sender's store at {host}:{port}: {_first(error)}") from None


class Group:
    """One epoch's group. `device` holds the buckets on their way: the CPU for gloo, or a GPU."""

    def __init__(
        self,
        backend: Backend,
        store: Any,
        epoch: int,
        rank: int,
        size: int,
        *,
        timeout_s: float,
        host: str = "127.0.0.1",
    ) -> None:
        self.epoch, self.rank, self.size = epoch, rank, size
        self._timeout = timedelta(seconds=timeout_s)
        self.device = torch.device("cpu")
        self._stages = backend == "nccl"  # buckets lie elsewhere than their version
        self._stream: AbstractContextManager[Any] = nullcontext()
        inside = dist.PrefixStore(f"{backend}/{epoch}", store)
        try:
            if backend == "gloo":
                self._group = _gloo(inside, rank, size, self._timeout, host)
            else:
                self.device = nccl.device()
                self._stream = nccl.stream(self.device)
                self._group = nccl.group(inside, rank, size, self._timeout)
        except nccl.NoNccl as error:
            raise CollectiveFailed(str(error)) from None
        except RuntimeError as error:
            raise CollectiveFailed(
                f"epoch {epoch} did not come together: {_first(error)}"
            ) from None

    def send(self, manifest: Manifest, view: memoryview) -> None:
        """Broadcast a version from `view` [num_bytes]. Raises CollectiveFailed."""
        self._broadcast(manifest, view, lambda bucket, data: None)

    def receive(self, manifest: Manifest, out: Buffer) -> None:
        """Receive a version into `out` [num_bytes].

        Raises CollectiveFailed when it did not come, and WeightsDamaged, when all of it came, for
        what is not what was announced.
        """
        damaged: list[int] = []

        def check(bucket: int, data: memoryview) -> None:
            if digest(data) != manifest.buckets[bucket].digest:
                damaged.append(bucket)  # the others are still in step: end with them

        self._broadcast(manifest, out, check)
        if damaged:
            raise WeightsDamaged(
                f"{manifest.version} came damaged (digest differs in bucket {damaged[0]} of "
                f"{len(manifest.buckets)}); it is not used"
            )

    def close(self) -> None:
        """Drop the group; what is still in flight fails."""
        group, self._group = self._group, None
        if group is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                group.abort()

    def _broadcast(
        self, manifest: Manifest, room: Buffer, arrived: Callable[[int, memoryview], None]
    ) -> None:
        bytes_ = np.frombuffer(room, dtype=np.uint8)
        parts = [bytes_[b.offset_bytes : b.offset_bytes + b.num_bytes] for b in manifest.buckets]
        flying: deque[tuple[int, Any, torch.Tensor]] = deque()
        staging: list[torch.Tensor | None] = []
        try:
            with self._stream:
                staging += [self._staging(manifest.buckets) for _ in range(IN_FLIGHT)]
                for number, part in enumerate(parts):
                    if len(flying) == IN_FLIGHT:
                        self._land(flying.popleft(), parts, arrived)
                    tensor = self._load(part, staging[number % IN_FLIGHT])
                    flying.append((number, self._start(tensor), tensor))
                while flying:
                    self._land(flying.popleft(), parts, arrived)
        except BaseException as error:
            # While it has its memory: what is still on its way writes into nobody else's.
            self.close()
            if isinstance(error, RealnetError) or not isinstance(error, RuntimeError):
                raise
            raise CollectiveFailed(
                f"{manifest.version} in epoch {self.epoch}: {_first(error)}"
            ) from None

    def _staging(self, buckets: tuple[Bucket, ...]) -> torch.Tensor | None:
        """Return room on the GPU for one bucket in flight; a CPU sends from where it lies."""
        if not self._stages:
            return None
        largest = max((b.num_bytes for b in buckets), default=0)
        return torch.empty(largest, dtype=torch.uint8, device=self.device)

    def _load(self, part: Any, staging: torch.Tensor | None) -> torch.Tensor:
        """Return the tensor that is broadcast for a bucket."""
        near = _tensor(part)
        if staging is None:
            return near
        tensor = staging[: len(part)]
        if self.rank == 0:
            tensor.copy_(near)  # behind the broadcast that had this room before: one stream
        return tensor

    def _start(self, tensor: torch.Tensor) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        if self._group is None:
            raise CollectiveFailed(f"epoch {self.epoch} was dropped")
        return self._group.broadcast([tensor], options)

    def _land(
        self,
        flight: tuple[int, Any, torch.Tensor],
        parts: list[Any],
        arrived: Callable[[int, memoryview], None],
    ) -> None:
        number, work, tensor = flight
        work.wait(self._timeout)
        if self._stages and self.rank:
            _tensor(parts[number]).copy_(tensor)  # waits for the device
        arrived(number, parts[number].data)


def _gloo(store: Any, rank: int, size: int, timeout: timedelta, host: str) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _tensor(part: Any) -> torch.Tensor:
    """Return a tensor on the same memory. What is read-only is only sent from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(part)


def _first(error: BaseException) -> str:
    """Return the first line of an error: torch adds C++ frames."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
