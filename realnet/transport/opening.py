"""Opens the transport of one process, as the plan's [run] says.

Knows nothing of records. Called by `run.py` for the head and by `member.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realnet.launch import ADDRESS, NEARBY
from realnet.transport import Transport
from realnet.transport.nearby import TwoWays
from realnet.transport.security import read_keys
from realnet.transport.zmq import ZmqTransport, ipc_endpoint, tcp_endpoint


def open_transport(
    run: Mapping[str, Any],
    folder: Path,
    sockets: Path,
    slot: str,
    incarnation: int,
    secret: int | None = None,
    others: Sequence[str] = (),
) -> Transport:
    """Bind the inbox of a process. `secret` is the inherited descriptor of its key, if it has one.

    Over tcp it listens on the address that the agent of its host tells (ADDRESS in its
    environment), else on that of [run] and on `others`; and in the folder that the agent made
    for the processes of its host (NEARBY), if it says so. With guests it has a door, unless they
    can bind sockets beside its own (ipc without keys).
    Raises SecurityError when the keys in the run's folder are not as they must be.
    """
    keys = read_keys(folder / "keys", slot, secret) if run["security"] == "curve" else None
    if run["transport"] == "tcp":
        far = ZmqTransport(
            tcp_endpoint(os.environ.get(ADDRESS) or str(run["host"])),
            keys,
            guests=bool(run["guests"]),
            sign_bulk=run["bulk"] == "signed",
            others=[tcp_endpoint(other) for other in others],
        )
        nearby = os.environ.get(NEARBY, "")
        if not nearby:
            return far
        folder = Path(nearby)
        return TwoWays(far, ZmqTransport(_in_folder(folder, slot, incarnation)), folder)
    endpoint = _in_folder(sockets, slot, incarnation)
    return ZmqTransport(endpoint, keys, guests=bool(run["guests"]) and keys is not None)


def endpoints_of(transport: Transport) -> tuple[str, ...]:
    """Return where a process is heard, by each of its addresses; the first is its endpoint."""
    return transport.endpoints if isinstance(transport, ZmqTransport) else (transport.endpoint,)


def _in_folder(folder: Path, slot: str, incarnation: int) -> str:
    # No dot before the incarnation: lanes and ranks are parted by one.
    return ipc_endpoint(folder, f"{slot.replace('/', '-')}~{incarnation}")
