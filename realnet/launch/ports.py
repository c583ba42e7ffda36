"""Ports for those who cannot say which one they got (torch.distributed): chosen and held by us.

A port is taken from below the range that the system gives out by itself, bound alone, and kept
bound until whoever needs it has ended; only then is sharing allowed on our socket, so that a
server which sets SO_REUSEADDR (as torch's store does) may listen there, and a second holder, who
binds alone as well, may not. Two runs on one machine never get the same port.

Knows nothing of slots. Used by `local.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path

from realnet.errors import RealnetError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, FLOOR = 20_000, 32_768
ENVIRONMENT = "REALNET_PORTS"  # "20000-29999": where a site wants them


class HeldPort:
    """One tcp port of this machine, ours until `close`."""

    def __init__(self) -> None:
        low, high = port_range()
        ports = range(low, high)
        start = random.SystemRandom().randrange(len(ports))
        for at in range(len(ports)):
            held = _bound_alone(ports[(start + at) % len(ports)])
            if held is not None:
                self._socket = held
                self.number = int(held.getsockname()[1])
                return
        raise RealnetError(f"no free port from {low} to {high - 1}: {ENVIRONMENT} gives others")

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


def port_range() -> tuple[int, int]:
    """Return the first port to take and the one after the last. Raises RealnetError."""
    written = os.environ.get(ENVIRONMENT, "")
    if written:
        try:
            return read_ports(written, ENVIRONMENT)
        except ValueError as error:
            raise RealnetError(str(error)) from None
    floor = FLOOR
    with contextlib.suppress(OSError, ValueError, IndexError):
        floor = int(RANGE.read_text().split()[0])
    return (LOWEST, floor) if floor > LOWEST + 1000 else (1024 + floor // 2, floor)


def read_ports(text: str, what: str) -> tuple[int, int]:
    """Return the first port in "20000-29999" and the one after the last. Raises ValueError."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1023 < int(first) <= int(last) < 65536):
        raise ValueError(f'{what}: {text!r} is not a range of ports: write "20000-29999"')
    return int(first), int(last) + 1


def _bound_alone(port: int) -> socket.socket | None:
    held = socket.socket()
    try:
        held.bind(("", port))  # every address: the same port of another one is no way out
    except OSError:
        held.close()
        return None
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return held
