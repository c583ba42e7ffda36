"""The caller's end of one stream: asks, yields what comes, gives more credit, ends or cancels.

Knows nothing of sockets. Called by `live/ask.py`; `calls.py` keeps the call meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from realnet import wire
from realnet.calls import Calls
from realnet.message import Message
from realnet.opencall import Asking

STREAM_CREDIT = 64


async def stream(
    calls: Calls, port: Asking, record: Message, budget_s: float, to: str | None = None
) -> AsyncIterator[Message]:
    """Ask and yield the items. See `LiveAsk.stream`."""
    while (member := port.choose(record, to)) is None:
        budget_s = await calls.somebody(port, record, budget_s)
    call = calls.start(port, member, record, budget_s, None)
    call.items = []
    taken = 0
    try:
        try:
            calls.send(call, STREAM_CREDIT)
        except BaseException:
            call.ended = True  # it never left
            raise
        while True:
            while not call.items and not call.ended:
                call.waiter = asyncio.get_running_loop().create_future()
                await call.waiter
            items, call.items = call.items or [], []
            for item in items:
                yield item
            taken += len(items)
            if call.ended and not call.items:
                break
            if taken >= STREAM_CREDIT // 2:
                member.way.send(wire.Credit(call.id, taken))
                taken = 0
        if call.error is not None:
            raise call.error
    finally:
        if call.ended:
            calls.end(call)
        else:
            calls.give_up(call)
