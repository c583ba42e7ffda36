"""Opens the transport of one process, as the plan's [run] says.

Knows nothing of records. Called by `run.py` for the head and by `member.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnet.launch import ADDRESS
from realnet.transport.security import read_keys
from realnet.transport.zmq import ZmqTransport, ipc_endpoint, tcp_endpoint


def open_transport(
    run: Mapping[str, Any],
    folder: Path,
    sockets: Path,
    slot: str,
    incarnation: int,
    secret: int | None = None,
) -> ZmqTransport:
    """Bind the inbox of a process. `secret` is the inherited descriptor of its key, if it has one.

    Over tcp it listens on the address that the agent of its host tells (ADDRESS in its
    environment), else on that of [run]. With guests it has a door, unless they can bind sockets
    beside its own (ipc without keys).
    Raises SecurityError when the keys in the run's folder are not as they must be.
    """
    keys = read_keys(folder / "keys", slot, secret) if run["security"] == "curve" else None
    if run["transport"] == "tcp":
        return ZmqTransport(
            tcp_endpoint(os.environ.get(ADDRESS) or str(run["host"])),
            keys,
            guests=bool(run["guests"]),
            sign_bulk=run["bulk"] == "signed",
        )
    # No dot before the incarnation: lanes and ranks are parted by one.
    endpoint = ipc_endpoint(sockets, f"{slot.replace('/', '-')}~{incarnation}")
    return ZmqTransport(endpoint, keys, guests=bool(run["guests"]) and keys is not None)
