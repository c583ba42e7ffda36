"""What a user writes with Monarch: an actor in a process of this host's mesh, asked by call_one."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from measure import TEXT, Arrays, measure, read_task, touch, write_rows
from monarch.actor import Actor, endpoint, this_host


class Server(Actor):
    @endpoint
    async def pid(self) -> int:
        return os.getpid()

    @endpoint
    async def echo(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"number": message["number"], "text": message["text"]}

    @endpoint
    async def arrays(self, arrays: Arrays) -> int:
        return touch(arrays.values())


async def main() -> None:
    task = read_task()
    mesh = this_host().spawn_procs(per_host={"gpus": 1})
    server = mesh.spawn("server", Server)
    pids = [os.getpid(), await server.pid.call_one()]

    async def echo() -> None:
        await server.echo.call_one({"number": 1, "text": TEXT})

    async def arrays(record: Arrays) -> None:
        await server.arrays.call_one(record)

    write_rows(task.out, await measure(task, echo, arrays, pids))
    await mesh.stop()


if __name__ == "__main__":
    asyncio.run(main())
