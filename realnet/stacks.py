"""The stacks of this process, written to a file when it is signalled.

The signal's handler is C code of Python's own (faulthandler): it works while the loop is frozen,
and while a thread is inside C code. If the loop lives it then adds what each of its tasks waits in.
Text only: names of files and functions, no values.

Knows nothing of runs. Called by `member.py` and by the command line in processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import io
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

MAX_FRAMES = 40
_open: list[io.FileIO] = []  # faulthandler keeps the descriptor only: the file must stay open


def write_stacks_on(number: signal.Signals, path: Path, who: str) -> None:
    """From now on, write the stacks of this process to a file on this signal.

    Call it in the running loop, in the main thread.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w")
    with contextlib.suppress(OSError):  # a full disk: the signal may come when it has room again
        file.write(f"# {who}, process {os.getpid()}\n".encode())
    _open.append(file)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, lambda: file.write(_tasks(loop)))
    faulthandler.register(number, file=file, all_threads=True, chain=True)


def stop_writing_stacks(number: signal.Signals) -> None:
    """Undo it."""
    faulthandler.unregister(number)
    asyncio.get_running_loop().remove_signal_handler(number)
    while _open:
        _open.pop().close()


def _tasks(loop: asyncio.AbstractEventLoop) -> bytes:
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(loop), key=lambda t: t.get_name()):
        text.write(f"\nTask {task.get_name()}:\n")
        for frame in reversed(_frames(task.get_coro())):
            code = frame.f_code
            text.write(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}\n')
    return text.getvalue().encode()


def _frames(coroutine: Any) -> list[FrameType]:
    """Return the frames of a coroutine and of what it awaits, outermost first."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < MAX_FRAMES:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(coroutine, f"{kind}_frame", None)
            if frame is not None:
                frames.append(frame)
                coroutine = getattr(coroutine, f"{kind}_await" if kind != "gi" else "gi_yieldfrom")
                break
        else:
            coroutine = _awaited(coroutine)
    return frames


def _awaited(compiled: Any) -> Any:
    """Return what a compiled coroutine awaits, None if nothing: it has no frame to ask."""
    found = gc.get_referents(compiled)
    for wrapper in [one for one in found if isinstance(one, _WRAPPER)]:
        found += gc.get_referents(wrapper)
    return next((one for one in found if isinstance(one, Coroutine)), None)


async def _nothing() -> None:
    """Awaited by nobody."""


def _wrapper_type() -> type:
    coroutine = _nothing()
    wrapper = type(coroutine.__await__())
    coroutine.close()
    return wrapper


_WRAPPER = _wrapper_type()  # stands between a coroutine and who awaits it in C
