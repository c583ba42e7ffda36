"""What a user writes with xoscar: an actor in a sub-process of the pool, called from the main one.

The sub-pool is a process of its own on this host; xoscar links the two over a unix socket.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import xoscar
from measure import TEXT, Arrays, measure, read_task, touch, write_rows


class Server(xoscar.StatelessActor):
    def pid(self) -> int:
        return os.getpid()

    async def echo(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"number": message["number"], "text": message["text"]}

    async def arrays(self, arrays: Arrays) -> int:
        return touch(arrays.values())


async def main() -> None:
    task = read_task()
    pool = await xoscar.create_actor_pool("127.0.0.1", n_process=1)
    async with pool:
        (address,) = pool.sub_processes
        server = await xoscar.create_actor(Server, address=address, uid="server")
        pids = [os.getpid(), await server.pid()]
        assert pids[0] != pids[1]

        def echo() -> Any:
            return server.echo({"number": 1, "text": TEXT})

        write_rows(task.out, await measure(task, echo, server.arrays, pids))


if __name__ == "__main__":
    asyncio.run(main())
