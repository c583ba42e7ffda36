"""What a user writes with zmq.asyncio on uvloop: typed MessagePack, correlation ids, DEALER/ROUTER.

The server has one reader task, a mailbox and one consumer that awaits an async handler.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
from typing import Any

import msgspec
import numpy as np
import uvloop
import zmq
import zmq.asyncio
from measure import TEXT, Arrays, measure, read_task, touch, write_rows


class Echo(msgspec.Struct, array_like=True, tag="echo"):
    id: int
    number: int
    text: str


class Trajectory(msgspec.Struct, array_like=True, tag="arrays"):
    id: int
    arrays: list[tuple[str, str]]  # name and dtype of the frames that follow


class Taken(msgspec.Struct, array_like=True, tag="taken"):
    id: int
    num_bytes: int


encoder = msgspec.msgpack.Encoder()
requests = msgspec.msgpack.Decoder(Echo | Trajectory)
replies = msgspec.msgpack.Decoder(Echo | Taken)


def a_socket(kind: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.SNDHWM, 0)
    return socket


async def serve(endpoint: str) -> None:
    socket = a_socket(zmq.ROUTER)
    socket.bind(endpoint)
    print("up", flush=True)
    mailbox: asyncio.Queue[list[zmq.Frame]] = asyncio.Queue()

    async def handle(message: Echo | Trajectory, frames: list[zmq.Frame]) -> Echo | Taken:
        if isinstance(message, Echo):
            return Echo(message.id, message.number, message.text)
        arrays = [
            np.frombuffer(frame.buffer, dtype)
            for frame, (_, dtype) in zip(frames, message.arrays, strict=True)
        ]
        return Taken(message.id, touch(arrays))

    async def consume() -> None:
        while True:
            who, head, *frames = await mailbox.get()
            reply = await handle(requests.decode(head.buffer), frames)
            await socket.send_multipart([who.bytes, encoder.encode(reply)])

    consumer = asyncio.ensure_future(consume())
    while not consumer.done():
        mailbox.put_nowait(await socket.recv_multipart(copy=False))


class Client:
    def __init__(self, endpoint: str) -> None:
        self.socket = a_socket(zmq.DEALER)
        self.socket.connect(endpoint)
        self.ids = itertools.count()
        self.open: dict[int, asyncio.Future[Any]] = {}
        self.reader = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        while True:
            reply = replies.decode(await self.socket.recv())
            self.open.pop(reply.id).set_result(reply)

    async def wait(self, id: int) -> Any:
        future = self.open[id] = asyncio.get_running_loop().create_future()
        return await future

    async def echo(self) -> None:
        id = next(self.ids)
        waiting = self.wait(id)
        await self.socket.send(encoder.encode(Echo(id, 1, TEXT)))
        await waiting

    async def arrays(self, arrays: Arrays) -> None:
        id = next(self.ids)
        waiting = self.wait(id)
        head = encoder.encode(Trajectory(id, [(n, str(a.dtype)) for n, a in arrays.items()]))
        frames = [a.view(np.uint8) for a in arrays.values()]
        await self.socket.send_multipart([head, *frames], copy=False)
        await waiting


async def main() -> None:
    task = read_task()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/zmq"
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", endpoint], stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            client = Client(endpoint)
            pids = [os.getpid(), server.pid]
            write_rows(task.out, await measure(task, client.echo, client.arrays, pids))
        finally:
            server.kill()
            server.wait()
        client.reader.cancel()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main())
