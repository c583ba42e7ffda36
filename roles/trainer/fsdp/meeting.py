"""How the ranks of a gang meet: a store that the leader opens on whatever port is free.

The leader tells the others where it is over the gang's own port, so no port is fixed or guessed.
The host is MASTER_ADDR, which whoever starts processes sets; on one machine the loopback.

Knows torch.distributed, nothing of models. Called by the leader's crew and by every shard.
"""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from realnet.roles.trainer.device import check_device

MEET_S = 300.0  # until all ranks of a gang have met
AXIS = "data"


def open_store(ranks: int) -> tuple[TCPStore, str, int]:
    """Open the store that all ranks meet at; return it, its host and its port."""
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    wait = datetime.timedelta(seconds=MEET_S)
    store = TCPStore(host, 0, ranks, True, wait, wait_for_workers=False)
    return store, host, store.port


def join_store(host: str, port: int, ranks: int) -> TCPStore:
    """Reach the store that the leader has opened."""
    return TCPStore(host, port, ranks, False, datetime.timedelta(seconds=MEET_S))


def meet(
    store: Store, rank: int, ranks: int, device: torch.device, collective_s: float
) -> DeviceMesh:
    """Return the mesh of all ranks, once they are there. Every rank calls it.

    Whoever met before, in this process, parts first.
    """
    part_ways()
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=collective_s),
    )
    return init_device_mesh(device.type, (ranks,), mesh_dim_names=(AXIS,))


def part_ways() -> None:
    """Leave the group; what was being exchanged is lost."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_device(wanted: str) -> torch.device:
    """Return the device of this rank: the one GPU that it sees, or the CPU.

    Raises ConfigError for a GPU that is not there.
    """
    check_device(wanted)
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(0)  # the others are not visible to this process
    return torch.device("cuda", 0)
