"""How an agent gets to its head: of the head's addresses, one that works both ways.

A head listens on every address of its host, what the site file names first, and writes them all
into `head.json`. An agent tries to connect to each, joins by the first that lets it and answers,
and says which others would do. The head chooses the one that most agents can use (`fitness.py`);
who came by another comes again. With each goes the address of its own host from which it is
reached.

Knows nothing of records. Used by `agent.py` and, for the head's end, `run.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from realnet.errors import RealnetError
from realnet.launch.addresses import address_towards
from realnet.launch.rendezvous import HeadFile, HeadWay
from realnet.transport.endpoints import parse_endpoint

TRY_S = 2.0
GRACE_S = 0.25  # for the others, when one has been reached
AGAIN_S = 0.5


class WayToHead(NamedTuple):
    """One of the head's endpoints, and the address of this host that goes with it."""

    endpoint: str
    address: str


async def ways_to(head: HeadFile, limit_s: float) -> list[WayToHead]:
    """Return the ways on which a connection to the head was made, the head's order kept.

    Looks again until there is one, for `limit_s` at most. Raises RealnetError naming the addresses
    that were tried.
    """
    until_s = time.monotonic() + limit_s
    while True:
        ways = await _reached_now(head.ways)
        if ways:
            return ways
        if time.monotonic() > until_s:
            tried = ", ".join(way.probe for way in head.ways)
            raise RealnetError(
                f"the head on {head.host} cannot be reached from here in {limit_s:.0f} s; tried "
                f"{tried}: is there a firewall between the nodes, or another `interface` for the "
                "site file?"
            )
        await asyncio.sleep(AGAIN_S)


async def _reached_now(there: Sequence[HeadWay]) -> list[WayToHead]:
    tries = [asyncio.ensure_future(_way(way)) for way in there]
    left: set[asyncio.Future[WayToHead | None]] = set(tries)
    while left and not any(t.done() and t.result() for t in tries):
        _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    for late in left:
        late.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return [way for t in tries if not t.cancelled() and (way := t.result())]


async def _way(there: HeadWay) -> WayToHead | None:
    try:
        own = address_towards(there.probe.rpartition(":")[0])
    except OSError:  # no route there
        return None
    return WayToHead(there.endpoint, own) if await reached(there.probe, TRY_S) else None


async def reached(where: str, limit_s: float) -> bool:
    """Tell whether a connection to "10.0.0.3:4711" can be made."""
    host, _, port = where.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), limit_s)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


class Probes:
    """The head's end: a port on each address that says no more than that it was reached."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def open(self, endpoints: Sequence[str]) -> tuple[HeadWay, ...]:
        """Listen on the address of each endpoint; return these as ways."""
        ways = []
        for endpoint in endpoints:
            host = parse_endpoint(endpoint).inboxes[0].removeprefix("tcp://").rpartition(":")[0]
            server = await asyncio.start_server(greet, host, 0)
            self._servers.append(server)
            ways.append(HeadWay(endpoint, f"{host}:{server.sockets[0].getsockname()[1]}"))
        return tuple(ways)

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whoever connects has reached this host: that is all it wanted to know."""
    writer.close()
