"""A GPU that is none, for the tests of loans: its memory are files, which other processes map.

As a program it borrows, says so, and holds on until it is killed:

    pretend_gpu.py FOLDER HELD SOURCE      records as JSON
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from realnet.errors import RealnetError
from realnet.roles.messages import Held, Source
from realnet.roles.weights.cuda_ipc import DeviceHandle, described, opened
from realnet.roles.weights.lending import borrow


class PretendDevice:
    """See `cuda_ipc.Device`."""

    def __init__(self, folder: Path, uuid: str = "GPU-0") -> None:
        self.folder = folder
        self.uuid = uuid
        self.finished = 0
        self.finishing: Callable[[], bool] | None = None  # called while somebody waits for it
        self.finishing_said: list[bool] = []
        self.opened = 0
        self._paths: dict[int, Path] = {}

    def allocate(self, num_bytes: int) -> torch.Tensor:
        path = self.folder / f"gpu-{len(self._paths)}"
        path.write_bytes(bytes(num_bytes))
        buffer = _mapped(path)
        self._paths[buffer.data_ptr()] = path
        return buffer

    def share(self, buffer: torch.Tensor) -> DeviceHandle:
        if buffer.data_ptr() not in self._paths:
            raise RealnetError("no buffer of this device")
        memory = str(self._paths[buffer.data_ptr()]).encode()
        return msgspec.structs.replace(described(buffer, self.uuid), memory=memory)

    def open(self, handle: DeviceHandle) -> torch.Tensor:
        return opened(handle, self.uuid, self._open)

    def _open(self, handle: DeviceHandle) -> torch.Tensor:
        self.opened += 1
        return _mapped(Path(handle.memory.decode()))[: handle.num_bytes]

    def finish(self) -> None:
        self.finished += 1
        asked, self.finishing = self.finishing, None
        if asked is not None:
            self.finishing_said.append(asked())


def _mapped(path: Path) -> torch.Tensor:
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    return torch.from_numpy(np.frombuffer(memory, np.uint8))


if __name__ == "__main__":
    folder, held, source = sys.argv[1:]
    lent = borrow(
        msgspec.json.decode(held, type=Held),
        msgspec.json.decode(source, type=Source),
        PretendDevice(Path(folder)),
    )
    values = lent.tensors(msgspec.json.decode(held, type=Held).manifest)
    print(float(values["w"][0, 0]), flush=True)
    time.sleep(600)
