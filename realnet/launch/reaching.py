"""How an agent gets to its head: of the head's addresses, one that works both ways.

A head listens on every address of its host, what the site file names first, and writes them all
into `head.json`. An agent tries to connect to each, joins by the first that lets it and answers,
and says which others would do. The head chooses the one that most agents can use (`fitness.py`);
who came by another comes again. With each goes the address of its own host from which it is
reached.

Knows nothing of records. Used by `agent.py`; the head's end is `rendezvous.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NamedTuple

from realnet.errors import RealnetError
from realnet.launch.addresses import address_towards
from realnet.launch.rendezvous import HeadFile
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
    endpoints = head.endpoints or (head.endpoint,)
    until_s = time.monotonic() + limit_s
    while True:
        ways = await _reached_now(endpoints)
        if ways:
            return ways
        if time.monotonic() > until_s:
            tried = ", ".join(parse_endpoint(e).inboxes[0] for e in endpoints)
            raise RealnetError(
                f"the head on {head.host} cannot be reached from here in {limit_s:.0f} s; tried "
                f"{tried}: is there a firewall between the nodes, or another `interface` for the "
                "site file?"
            )
        await asyncio.sleep(AGAIN_S)


async def _reached_now(endpoints: tuple[str, ...]) -> list[WayToHead]:
    tries = [asyncio.ensure_future(_way(e)) for e in endpoints]
    left: set[asyncio.Future[WayToHead | None]] = set(tries)
    while left and not any(t.done() and t.result() for t in tries):
        _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    for late in left:
        late.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return [way for t in tries if not t.cancelled() and (way := t.result())]


async def _way(endpoint: str) -> WayToHead | None:
    there = parse_endpoint(endpoint).inboxes[0].removeprefix("tcp://")
    try:
        own = address_towards(there.rpartition(":")[0])
    except OSError:  # no route there
        return None
    return WayToHead(endpoint, own) if await reached(there, TRY_S) else None


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


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whoever connects has reached this host: that is all it wanted to know."""
    writer.close()
