"""`realnet startup RUN`: from its submission to the first training step, part by part.

Knows the run's folder only. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from realnet.cli_runs import RUNS, find_run
from realnet.errors import RunFolderError
from realnet.observe.record import Row, read_rows
from realnet.observe.startup import read_startup
from realnet.slurm.records import read_jobs

Wanted = Callable[[Row], bool]
PARTS = {
    "job": "submitted until the job's script runs (the queue, sbatch)",
    "head": "the head loads its code and listens",
    "agents": "agents are started on all nodes and say hello",
    "preflight": "nodes are looked at, and try to reach each other",
    "processes": "processes load their code and join",
    "warm": "models are loaded or made; the warm start, where there is one",
    "version": "the first version of the weights is where generators get it",
    "step": "the first training step is done",
}


class Moment(NamedTuple):
    """When a part was over, in seconds since the first of all."""

    part: str
    at_s: float


@click.command()
@click.argument("run", required=False)
@click.option("--attempt", default=1, show_default=True, help="Which life of the run.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def startup(run: str | None, attempt: int, runs: Path) -> None:
    """Show how long a RUN took from its submission to the first training step, part by part."""
    folder = find_run(runs, run)
    last_s = 0.0
    for moment in moments(folder, attempt):
        took_s, last_s = moment.at_s - last_s, moment.at_s
        click.echo(f"{took_s:7.1f} s  at {last_s:7.1f} s  {moment.part:<10} {PARTS[moment.part]}")


def moments(folder: Path, attempt: int) -> list[Moment]:
    """Return when each part was over, in order, those that the run did not have left out.

    Seconds count from the submission, of a run without SLURM from its head's own start. Raises
    RunFolderError when the attempt does not say how it began.
    """
    began = read_startup(folder, attempt)
    if began is None:
        raise RunFolderError(
            f"{folder} does not say how attempt {attempt} began: has it got so far as to start its "
            "processes?"
        )
    found = {"head": 0.0, **began.parts}
    found |= _first(folder, attempt, "version", lambda r: "version" in r and "bytes" in r)
    found |= _first(folder, attempt, "step", lambda r: "loss" in r)
    found |= _last(folder, attempt, "warm", lambda r: "warm_step" in r)
    submitted_s = _submitted_s(folder, attempt)
    if submitted_s is not None:
        begun = folder / "attempts" / str(attempt) / "begun"
        found = {part: began.wall_s - submitted_s + at_s for part, at_s in found.items()}
        found["job"] = begun.stat().st_mtime - submitted_s
    return sorted((Moment(p, found[p]) for p in PARTS if p in found), key=lambda m: m.at_s)


def _first(folder: Path, attempt: int, part: str, wanted: Wanted) -> dict[str, float]:
    rows = _rows(folder, attempt, wanted)
    return {part: float(rows[0]["time_s"])} if rows else {}


def _last(folder: Path, attempt: int, part: str, wanted: Wanted) -> dict[str, float]:
    rows = _rows(folder, attempt, wanted)
    return {part: float(rows[-1]["time_s"])} if rows else {}


def _rows(folder: Path, attempt: int, wanted: Wanted) -> list[Row]:
    found = read_rows(folder / "metrics.jsonl")
    return [r for r in found if r.get("attempt") == attempt and wanted(r)]


def _submitted_s(folder: Path, attempt: int) -> float | None:
    """Return when the job of a first attempt was handed to SLURM; later ones may be requeued."""
    jobs = [j for j in read_jobs(folder) if j.what == "run"]
    return jobs[0].time_s if jobs and attempt == 1 else None
