"""NCCL as a broadcast needs it: a group that fails in the thread that waits, and a stream beside.

torch sets NCCL up for training jobs. There a thread of each group watches it, and ends the process
when an operation failed or takes too long; and setting up a communicator waits for ever for a rank
that died. A version that does not come is no reason for a generator to end. So a group here
    has no such thread: `wait(timeout)` raises, and has aborted the communicator by then
    is set up without blocking: what does not come together in time is an error as well

and what a broadcast asks of its GPU goes by a stream of its own. On the common one the tokens of an
engine in this process would wait for the bucket that is on its way.

Knows torch's NCCL and its environment; knows nothing of versions. Called by `collective.py`. It
never ran on a GPU: `make bench-gpu` is the first look where there is one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from realnet.errors import RealnetError

dist: Any = torch.distributed  # its types are there only where it was built with them
_turn = threading.Lock()  # the environment is the whole process's
# Read once by each group, as it is made.
_NO_WATCHDOG = {"TORCH_NCCL_BLOCKING_WAIT": "1"}
# Read once by a process, when the first communicator is not set up at once.
_PATIENCE = "TORCH_NCCL_NONBLOCKING_TIMEOUT"


class NoNccl(RealnetError):
    """NCCL cannot be used in this process."""


def check() -> None:
    """Raise NoNccl, and say what to do, where NCCL cannot work."""
    if not torch.cuda.is_available() or not dist.is_nccl_available():
        raise NoNccl(
            'links = ["nccl"] needs a GPU in every member, the parameter server too, and there is '
            'none here: give the role gpus = 1, or use "gloo" or "stream"'
        )


def device() -> torch.device:
    """Return the GPU that buckets go by: the first that this process sees."""
    check()
    return torch.device("cuda", 0)


def stream(gpu: torch.device) -> AbstractContextManager[Any]:
    """Return what lets everything inside of it go by a stream of its own. Made once, used often."""
    own: Any = torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(own)


def group(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Return a process group of NCCL, whose operations fail after `timeout`."""
    check()
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    options.config.blocking = 0
    os.environ.setdefault(_PATIENCE, str(math.ceil(timeout.total_seconds())))
    with _environment(_NO_WATCHDOG):
        return dist.ProcessGroupNCCL(store, rank, size, options)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a moment: a trainer's own groups in this process go without."""
    with _turn:
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
