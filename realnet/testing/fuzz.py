"""Feed damaged messages to a real node and to the codec, and say what came of it.

    python -m realnet.testing.fuzz --frames 2000000 --processes 2 --seed 4be21a --save cases/

Only declared errors may come out; the node may not hang, take memory without bound, or stop to
answer its honest peers. What breaks that is saved, cut down to what is needed, and is played again
by the tests. The seed may be any text, for example a commit.

`target.py` is the network that takes the damage, `mutations.py` makes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import multiprocessing
import random
import resource
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click
import msgpack  # type: ignore[import-untyped,unused-ignore]
import msgspec

from realnet.codec import Codec, Frame
from realnet.errors import WireError
from realnet.testing.examples import example, record_types, sendable
from realnet.testing.mutations import damaged, mutated
from realnet.testing.target import Frames, Target, capture
from realnet.transport.memory import MemoryNetwork
from realnet.wire import Body

PER_ORIGINAL = 5  # more would meet a link that has taken this number already
BODIES_PER_FRAME = 0.25
HANG_S = 30
MORE_MEMORY_BYTES = 2 * 2**30
TURNS_EVERY = 8


class Totals(NamedTuple):
    """What some damage came to."""

    frames: int = 0
    bodies: int = 0
    refused: int = 0
    taken: int = 0
    broken: int = 0
    more_rss_bytes: int = 0
    failures: tuple[str, ...] = ()

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both; memory is the larger one's."""
        return Totals(
            self.frames + other.frames,
            self.bodies + other.bodies,
            self.refused + other.refused,
            self.taken + other.taken,
            self.broken + other.broken,
            max(self.more_rss_bytes, other.more_rss_bytes),
            self.failures + other.failures,
        )


class Hang(Exception):
    """One step took longer than any may."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no end after {HANG_S} s")


# ---------------------------------------------------------------- frames, into a node


async def wrong_with(messages: Sequence[Frames]) -> tuple[str, int, int, bool]:
    """Feed messages to a fresh target.

    Returns what went wrong ('' if nothing), how many messages were fed until then, how many errors
    were told, and whether the link was broken for good.
    """
    loop = asyncio.get_running_loop()
    escaped: list[str] = []
    loop.set_exception_handler(lambda _, context: escaped.append(_told(context)))
    target = Target(MemoryNetwork(), talker=False)
    heard, fed, wrong = target.heard, 0, ""
    try:
        for frames in messages:
            fed += 1
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            target.feed(frames)
            if fed % TURNS_EVERY == 0:
                await asyncio.sleep(0)
            if heard.undeclared or escaped or heard.broken:
                break
        for _ in range(5):
            await asyncio.sleep(0)
        if not await target.answers():
            wrong = "an honest peer got a wrong answer"
    except Exception as error:  # whatever it is, it is a finding
        wrong = _trace(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        await target.close()
        loop.set_exception_handler(None)
    for failed in heard.undeclared:
        wrong += "an actor failed: " + _trace(failed)
    return wrong + "".join(escaped), fed, heard.refused, heard.broken


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return _trace(error) if isinstance(error, BaseException) else str(context)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-5:])


def _round(rng: random.Random, originals: Sequence[Frames]) -> list[Frames]:
    """Return the record with damaged copies before each of its messages."""
    headers = [bytes(m[0]) for m in originals]
    messages: list[Frames] = []
    for original in originals:
        for _ in range(PER_ORIGINAL):
            chosen = original if rng.random() < 0.8 else rng.choice(originals)
            messages.append(mutated(rng, chosen, headers))
        if rng.random() < 0.9:  # now and then one is lost
            messages.append(original)
    return messages


async def needed(messages: list[Frames]) -> list[Frames]:
    """Return fewer messages that still do it: leave out ever smaller pieces, as long as it does."""
    piece = len(messages) // 2
    while piece:
        at = 0
        while at < len(messages):
            fewer = messages[:at] + messages[at + piece :]
            if fewer and (await wrong_with(fewer))[0]:
                messages = fewer
            else:
                at += piece
        piece //= 2
    return messages


async def _frames(rng: random.Random, count: int, save: Path | None) -> Totals:
    originals = await capture()
    totals = Totals()
    while totals.frames < count:
        messages = _round(rng, originals)[: max(PER_ORIGINAL, count - totals.frames)]
        wrong, fed, refused, broken = await wrong_with(messages)
        failures: tuple[str, ...] = ()
        if wrong:
            messages = await needed(messages[:fed])
            failures = (f"{_saved(save, 'messages', messages)}: {wrong}",)
        totals = totals.plus(Totals(fed, refused=refused, broken=broken, failures=failures))
        if len(totals.failures) >= 5:
            break
    return totals


# ---------------------------------------------------------------- bodies, into the codec


def decoded(codec: Codec, kind: str, raw: bytes, frames: Sequence[Frame]) -> str:
    """Decode one damaged body. Returns 'taken', 'refused', or what went wrong."""
    try:
        codec.decode(Body(kind, msgspec.Raw(raw), len(frames)), frames, "fuzz/0~1")
    except WireError as error:
        if kind in str(error) and "fuzz/0" in str(error):
            return "refused"
        return f"a text that does not name {kind} and its sender: {error}"
    except Exception as error:  # whatever else it is, it is a finding
        return _trace(error)
    return "taken"


def _bodies(rng: random.Random, count: int, save: Path | None) -> Totals:
    codec = Codec(sendable(record_types()))
    bodies = [codec.encode(example(k, rng)) for k in codec.kinds for _ in range(4)]
    raws = [bytes(body.raw) for body, _ in bodies]
    found = {"taken": 0, "refused": 0}
    failures: list[str] = []
    for i in range(count):
        body, frames = rng.choice(bodies)
        raw = damaged(rng, bytes(body.raw), raws)
        if i % 1000 == 0:
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
        result = decoded(codec, body.kind, raw, frames)
        if result in found:
            found[result] += 1
        else:
            failures.append(f"{_saved(save, body.kind, [[raw, *frames]])}: {result}")
            if len(failures) >= 5:
                break
    signal.setitimer(signal.ITIMER_REAL, 0)
    return Totals(0, count, found["refused"], found["taken"], failures=tuple(failures))


# ---------------------------------------------------------------- cases


def _saved(folder: Path | None, what: str, messages: Sequence[Frames]) -> str:
    data: bytes = msgpack.packb([what, [[bytes(f) for f in m] for m in messages]])
    name = f"{what}-{hashlib.blake2b(data, digest_size=6).hexdigest()}.case"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(zlib.compress(data, 9))
    return name


def replay(path: Path) -> str:
    """Play a saved case again; returns what went wrong, '' if nothing does."""
    what, messages = msgpack.unpackb(zlib.decompress(path.read_bytes()))
    _guard(0)
    if what == "messages":
        return asyncio.run(wrong_with(messages))[0]
    codec = Codec(k for k in sendable(record_types()) if k.__name__ == what)
    found = [decoded(codec, what, m[0], m[1:]) for m in messages] if codec.kinds else []
    return "\n".join(f for f in found if f not in ("taken", "refused"))


# ---------------------------------------------------------------- workers


def _guard(more_bytes: int) -> None:
    """Let a hang end in an exception, and memory without bound in a MemoryError."""
    signal.signal(signal.SIGALRM, _alarm)
    if more_bytes:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more_bytes, resource.RLIM_INFINITY))


def fuzz(seed: str, frames: int, save: Path | None = None, more_bytes: int = 0) -> Totals:
    """Damage so many messages in this process."""
    rng = random.Random(seed)
    _guard(more_bytes)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    totals = _bodies(rng, int(frames * BODIES_PER_FRAME), save)
    totals = totals.plus(asyncio.run(_frames(rng, frames, save)))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    return totals._replace(more_rss_bytes=more)


def _work(job: tuple[str, int, Path | None]) -> Totals:
    return fuzz(*job, more_bytes=MORE_MEMORY_BYTES)


@click.command()
@click.option("--frames", default=2_000_000, show_default=True, help="Damaged messages for nodes.")
@click.option("--processes", default=2, show_default=True)
@click.option("--seed", default="0", help="Any text; the damage follows from it.")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for what breaks something.")
@click.option("--declare", multiple=True, help="Also import this module for its record types.")
@click.option("--parts", default=20, show_default=True, help="Pieces of work, each with its seed.")
def main(
    frames: int,
    processes: int,
    seed: str,
    save: Path | None,
    declare: tuple[str, ...],
    parts: int,
) -> None:
    """Feed damaged messages to real nodes; exit 1 if anything but a declared error came out."""
    for module in declare:  # the caller's own command line, not what came over a wire
        importlib.import_module(module)
    start_s, totals = time.monotonic(), Totals()
    click.echo(f"seed {seed!r}, {frames} messages in {parts} parts on {processes} processes")
    jobs = [(f"{seed} {part}", -(-frames // parts), save) for part in range(parts)]
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        for part in pool.imap_unordered(_work, jobs):
            totals = totals.plus(part)
            for failure in part.failures:
                click.echo(failure)
    wall_s = time.monotonic() - start_s
    click.echo(
        f"{totals.frames} messages into nodes and {totals.bodies} bodies into the codec in "
        f"{wall_s:.0f} s: {totals.refused} refused and told, {totals.taken} bodies still good, "
        f"{totals.broken} links given up, at most {totals.more_rss_bytes / 2**20:.0f} MiB more "
        f"memory, {len(totals.failures)} failures"
    )
    sys.exit(1 if totals.failures else 0)


if __name__ == "__main__":
    main()
