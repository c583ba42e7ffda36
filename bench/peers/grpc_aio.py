"""What a user writes with grpc.aio: `GRPC=unary` (one call for each ask) or `GRPC=bidi` (a stream).

Bodies are typed MessagePack, which is faster than protobuf in Python. Over a unix socket.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import numpy as np
from measure import TEXT, Arrays, measure, read_task, touch, write_rows

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 4096),
]


class Echo(msgspec.Struct, array_like=True, tag="echo"):
    id: int
    number: int
    text: str


class Trajectory(msgspec.Struct, array_like=True, tag="arrays"):
    id: int
    arrays: dict[str, tuple[str, memoryview]]


class Taken(msgspec.Struct, array_like=True, tag="taken"):
    id: int
    num_bytes: int


encode = msgspec.msgpack.Encoder().encode
requests = msgspec.msgpack.Decoder(Echo | Trajectory)
replies = msgspec.msgpack.Decoder(Echo | Taken)


async def handle(message: Echo | Trajectory) -> Echo | Taken:
    if isinstance(message, Echo):
        return Echo(message.id, message.number, message.text)
    arrays = [np.frombuffer(data, dtype) for dtype, data in message.arrays.values()]
    return Taken(message.id, touch(arrays))


async def unary(message: Any, context: Any) -> Any:
    return await handle(message)


async def bidi(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for message in messages:
        yield await handle(message)


async def serve(endpoint: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, requests.decode, encode),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi, requests.decode, encode),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bench", kinds),))
    server.add_insecure_port(endpoint)
    await server.start()
    print("up", flush=True)
    await server.wait_for_termination()


class Unary:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = channel.unary_unary("/bench.Bench/Unary", encode, replies.decode)
        self.ids = itertools.count()

    async def ask(self, message: Any) -> None:
        await self.call(message)


class Bidi(Unary):
    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.open: dict[int, asyncio.Future[Any]] = {}
        self.stream = channel.stream_stream("/bench.Bench/Bidi", encode, replies.decode)()
        self.one_at_a_time = asyncio.Lock()  # a stream takes no second write meanwhile
        self.reader = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        while True:
            reply = await self.stream.read()
            self.open.pop(reply.id).set_result(reply)

    async def ask(self, message: Any) -> None:
        future = self.open[message.id] = asyncio.get_running_loop().create_future()
        async with self.one_at_a_time:
            await self.stream.write(message)
        await future


async def main() -> None:
    task = read_task()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"unix:{folder}/grpc"
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", endpoint], stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            kind = Bidi if os.environ.get("GRPC") == "bidi" else Unary
            client = kind(grpc.aio.insecure_channel(endpoint, options=OPTIONS))

            def echo() -> Any:
                return client.ask(Echo(next(client.ids), 1, TEXT))

            def arrays(record: Arrays) -> Any:
                body = {n: (str(a.dtype), a.view(np.uint8).data) for n, a in record.items()}
                return client.ask(Trajectory(next(client.ids), body))

            write_rows(task.out, await measure(task, echo, arrays, [os.getpid(), server.pid]))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main())
