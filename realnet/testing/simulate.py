"""Play many scenarios and say how it was.

    python -m realnet.testing.simulate --scenarios 1000 --processes 2 --seed 4be21a

Prints totals, and each failing seed with what was wrong; `--only 8812 --trace k0.17` plays one
again and tells the story of one item. The seed may be any text, for example a commit.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from realnet.testing.scenario import play

CHUNK = 10


class Totals(NamedTuple):
    """What some scenarios came to."""

    scenarios: int = 0
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
        r = play(seed)
        failures = ((seed, tuple(r.wrong)),) if r.wrong else ()
        totals = totals.plus(Totals(1, r.faults, r.items, r.messages, r.simulated_s, 0.0, failures))
        del r
    gc.collect()
    return totals._replace(cpu_s=time.process_time() - start_s)


def seeds_of(text: str, count: int) -> list[int]:
    """Return `count` seeds that follow from a text."""
    start = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    return [start + i for i in range(count)]


def past_seeds(path: Path) -> list[int]:
    """Return the seeds in a file, one a line; # begins a comment."""
    if not path.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [int(line) for line in lines if line]


def _played(seeds: Sequence[int], processes: int) -> Iterator[Totals]:
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    if processes == 1:
        yield from map(play_all, chunks)
        return
    gc.collect()
    gc.freeze()  # the collections after each chunk need not look at the modules
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(play_all, chunks)


@click.command()
@click.option("--scenarios", default=1000, show_default=True)
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
    seeds = [*(past_seeds(past) if past else ()), *seeds_of(seed, scenarios)]
    totals = Totals()
    for part in _played(seeds, processes):
        totals = totals.plus(part)
        for failed, wrong in part.failures:
            click.echo(f"seed {failed}: " + "\n  ".join(wrong[:5]))
    wall_s = time.monotonic() - start_s
    click.echo(
        f"{totals.scenarios} scenarios from seed {seed!r} in {wall_s:.1f} s on {processes} "
        f"processes ({totals.cpu_s:.1f} CPU s): {totals.faults} faults, {totals.items} items, "
        f"{totals.messages} messages, {totals.simulated_s / 3600:.2f} simulated hours; "
        f"{totals.scenarios / wall_s:.1f} scenarios/s, {totals.messages / wall_s:.0f} messages/s, "
        f"{totals.simulated_s / wall_s:.0f}x real time; {len(totals.failures)} failures"
    )
    for failed, _ in totals.failures:
        click.echo(f"  again: python -m realnet.testing.simulate --only {failed}")
    sys.exit(1 if totals.failures else 0)


if __name__ == "__main__":
    main()
