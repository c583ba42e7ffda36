"""Play many scenarios and say how it was.

    python -m realnet.testing.simulate --scenarios 1000 --processes 2 --seed 4be21a

A scenario counts when it has at least `LEAST` roles, faults and messages; one that was stopped too
early for that (stops at any moment are part of the game) is played and judged beside those.

Prints totals and the least that any counted scenario had, and each failing seed with what was
wrong; `--only 8812 --trace k0.17` plays one again and tells the story of one item. The seed may be
any text, for example a commit.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from realnet.testing.scenario import Result, make, play

CHUNK = 10


class Size(NamedTuple):
    """How much a scenario has of everything."""

    roles: int
    faults: int
    messages: int

    def least(self, other: Size | None) -> Size:
        """Return the smaller number of each."""
        return self if other is None else Size(*map(min, self, other))


LEAST = Size(roles=4, faults=7, messages=1_000)


class Totals(NamedTuple):
    """What some scenarios came to."""

    scenarios: int = 0
    counted: int = 0  # with at least LEAST of everything
    least: Size | None = None  # of those
    faults: int = 0
    items: int = 0
    messages: int = 0
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    failures: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both."""
        return Totals(
            self.scenarios + other.scenarios,
            self.counted + other.counted,
            other.least.least(self.least) if other.least else self.least,
            self.faults + other.faults,
            self.items + other.items,
            self.messages + other.messages,
            self.simulated_s + other.simulated_s,
            self.cpu_s + other.cpu_s,
            self.failures + other.failures,
        )


def play_all(seeds: Sequence[int]) -> Totals:
    """Play scenarios one after the other in this process."""
    gc.disable()  # what a scenario leaves is collected after it
    start_s = time.process_time()
    totals = Totals()
    for seed in seeds:
        result = play(seed)
        totals = totals.plus(_of(result))
        del result
    gc.collect()
    return totals._replace(cpu_s=time.process_time() - start_s)


def _of(result: Result) -> Totals:
    size = Size(len(make(result.seed).plan.roles), result.faults, result.messages)
    counts = size.least(LEAST) == LEAST
    return Totals(
        scenarios=1,
        counted=int(counts),
        least=size if counts else None,
        faults=result.faults,
        items=result.items,
        messages=result.messages,
        simulated_s=result.simulated_s,
        failures=((result.seed, tuple(result.wrong)),) if result.wrong else (),
    )


def seeds_of(text: str, count: int, skip: int = 0) -> list[int]:
    """Return `count` seeds that follow from a text, after the first `skip`."""
    start = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    return [start + skip + i for i in range(count)]


def past_seeds(path: Path) -> list[int]:
    """Return the seeds in a file, one a line; # begins a comment."""
    if not path.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [int(line) for line in lines if line]


@contextlib.contextmanager
def _players(processes: int) -> Iterator[Callable[[Sequence[int]], Iterator[Totals]]]:
    """Give what plays seeds, in parts, on this many processes."""

    def chunks(seeds: Sequence[int]) -> list[Sequence[int]]:
        return [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]

    if processes == 1:
        yield lambda seeds: map(play_all, chunks(seeds))
        return
    gc.collect()
    gc.freeze()  # the collections after each chunk need not look at the modules
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield lambda seeds: pool.imap_unordered(play_all, chunks(seeds))


def play_many(seed: str, scenarios: int, processes: int, past: Sequence[int] = ()) -> Totals:
    """Play the seeds of the past, and then new ones until so many of those count."""
    with _players(processes) as players:
        totals = _sum(players(past))
        new = Totals()
        while new.counted < scenarios and not totals.plus(new).failures:
            seeds = seeds_of(seed, scenarios - new.counted, skip=new.scenarios)
            new = new.plus(_sum(players(seeds)))
    return totals.plus(new)


def _sum(parts: Iterator[Totals]) -> Totals:
    totals = Totals()
    for part in parts:
        totals = totals.plus(part)
        for failed, wrong in part.failures:
            click.echo(f"seed {failed}: " + "\n  ".join(wrong[:5]))
    return totals


@click.command()
@click.option("--scenarios", default=1000, show_default=True, help="How many that count.")
@click.option("--processes", default=2, show_default=True)
@click.option("--seed", default="0", help="Any text; scenarios follow from it.")
@click.option("--past", type=click.Path(path_type=Path), help="A file of seeds to play as well.")
@click.option("--only", type=int, help="Play this one seed and show what was wrong.")
@click.option("--trace", default="", help="With --only: tell the story of this key.")
def main(
    scenarios: int, processes: int, seed: str, past: Path | None, only: int | None, trace: str
) -> None:
    """Play scenarios of the real framework in virtual time; exit 1 if one went wrong."""
    if only is not None:
        result = play(only)
        click.echo(str(result))
        if trace:
            click.echo(result.history.around(trace, most=200))
        sys.exit(1 if result.wrong else 0)
    start_s = time.monotonic()
    totals = play_many(seed, scenarios, processes, past_seeds(past) if past else ())
    wall_s = time.monotonic() - start_s
    click.echo(
        f"{totals.counted} scenarios, each of {_least(totals.least)} or more, and "
        f"{totals.scenarios - totals.counted} that were stopped before they had as much, from seed "
        f"{seed!r} in {wall_s:.1f} s on {processes} "
        f"processes ({totals.cpu_s:.1f} CPU s): {totals.faults} faults, {totals.items} items, "
        f"{totals.messages} messages, {totals.simulated_s / 3600:.2f} simulated hours; "
        f"{totals.scenarios / wall_s:.1f} scenarios/s, {totals.messages / wall_s:.0f} messages/s, "
        f"{totals.simulated_s / wall_s:.0f}x real time; {len(totals.failures)} failures"
    )
    for failed, _ in totals.failures:
        click.echo(f"  again: python -m realnet.testing.simulate --only {failed}")
    sys.exit(1 if totals.failures or totals.counted < scenarios else 0)


def _least(size: Size | None) -> str:
    return f"{size.roles} roles, {size.faults} faults, {size.messages} messages" if size else "none"


if __name__ == "__main__":
    main()
