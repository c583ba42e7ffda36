"""A program that a test starts and kills: an engine on two ranks, which swaps a version mid-answer.

Prints "ready PID PID ..." (the processes of the engine) when all tokens were right, then waits.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from engine_rig import request, rig

from realnet.config import Bytes
from realnet.roles.generator.vllm.config import VllmConfig


def below(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *below(int(child))]
    return found


async def main(work: Path) -> None:
    vllm = VllmConfig(kv_cache=Bytes(64 * 2**20), tensor_parallel=2)
    async with rig("vllm", work, vllm=vllm) as made:
        await made.load(1)
        begun = asyncio.Event()
        writing = asyncio.create_task(
            made.answer(request([4, 5, 6], max_tokens=80, seed=1), begun.set)
        )
        await begun.wait()
        await made.load(2)
        answer = await writing
        assert len(answer.spans()) == 2, answer.spans()
        made.check(answer)
        import os

        print("ready", *below(os.getpid()), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
