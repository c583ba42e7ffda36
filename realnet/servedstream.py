"""The answering end of one stream: takes items from a handler as far as the caller gave credit.

Knows nothing of wires. Called by `serving.py`, which is compiled where this is not: there an error
in the middle of a handler came out of the streams after it as well (mypyc, awaits within finally).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from realnet.message import Message
from realnet.served import ServedCall


async def give(
    call: ServedCall,
    items: AsyncIterator[Message],
    check: Callable[[Message], None],
    send: Callable[[Message], None],
) -> None:
    """Send each item that passes; the handler is closed whatever happens."""
    call.more = asyncio.Event()
    try:
        async for item in items:
            check(item)
            while call.credit <= 0:
                call.more.clear()
                await call.more.wait()
            call.credit -= 1
            send(item)
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
