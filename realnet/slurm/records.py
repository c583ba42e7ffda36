"""What a run under SLURM leaves in its folder, and what its parts read there.

    slurm.json                   what was asked for: every job of the run reads it
    jobs.jsonl                   each job: before sbatch is called, and with its number after
    attempts/<n>/outcome.json    how an attempt ended, and the newest checkpoint then

Jobs are cancelled by the numbers in jobs.jsonl, never by name. Knows nothing of SLURM's commands.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from realnet.errors import RunFolderError
from realnet.guest.meeting import write_private

ATTEMPTS_WITHOUT_PROGRESS = 2


class Part(msgspec.Struct, frozen=True):
    """Nodes of one kind in a job: `nodes` and `spares` more, each with so many GPUs and cores.

    `pool` is whose they are; "" for all of a job that has one kind.
    """

    pool: str
    nodes: int
    spares: int
    gpus: int
    cpus: int


class Submission(msgspec.Struct):
    """What was asked for, of all nodes together and for the fullest of them. `site` is a plain
    table of `Site`. `parts`: the kinds of nodes, where there are several.
    """

    nodes: int
    spares: int
    gpus: int
    cpus: int
    python: str
    path: list[str]
    site: dict[str, Any]
    parts: list[Part] = []

    def kinds(self) -> list[Part]:
        """Return the kinds of nodes: at least one."""
        whole = Part("", self.nodes, self.spares, self.gpus, self.cpus)
        return self.parts or [whole]


class Job(msgspec.Struct):
    """One job of a run. Without a number its submission has not been answered.

    `what` is "run", or the role whose elastic members it hosts: those have the agent numbers from
    `first` on.
    """

    what: str
    number: int = 0
    first: int = 0
    count: int = 0
    time_s: float = 0.0


class Ended(msgspec.Struct):
    """How an attempt ended. `checkpoint` names the newest one there was then."""

    code: int
    text: str
    checkpoint: str = ""


def write_submission(folder: Path, submission: Submission) -> None:
    """Write slurm.json."""
    write_private(folder / "slurm.json", msgspec.json.encode(submission))


def read_submission(folder: Path) -> Submission:
    """Return what was asked for. Raises RunFolderError."""
    try:
        return msgspec.json.decode((folder / "slurm.json").read_bytes(), type=Submission)
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder} was not submitted to SLURM: bin/submit TOPOLOGY does that"
        ) from None
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{folder}/slurm.json is damaged: {error}") from None


def note_job(folder: Path, job: Job) -> None:
    """Add a line to jobs.jsonl."""
    job.time_s = job.time_s or time.time()
    with (folder / "jobs.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(msgspec.json.encode(job) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs that have a number, oldest first."""
    try:
        lines = (folder / "jobs.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    jobs = []
    for line in lines:
        try:
            jobs.append(msgspec.json.decode(line, type=Job))
        except msgspec.DecodeError:  # a torn line
            continue
    # One that began before its sbatch had returned is there twice: noted by itself as well.
    return list({j.number: j for j in jobs if j.number}.values())


def first_free(base: int, count: int, jobs: Iterable[Job]) -> int:
    """Return the first of `count` agent numbers from `base` on that no host of these jobs has."""
    taken = {n for j in jobs for n in range(j.first, j.first + j.count)}
    first = base
    while not taken.isdisjoint(range(first, first + count)):
        first += 1
    return first


def newest_checkpoint(folder: Path) -> str:
    """Return a name that changes with every checkpoint; "" while there is none."""
    found = [
        (p.stat().st_mtime_ns, p.name)
        for p in (folder / "checkpoints").glob("*")
        if p.is_dir() and not p.name.startswith(".")
    ]
    return max(found, default=(0, ""))[1]


def write_ended(folder: Path, attempt: int, ended: Ended) -> None:
    """Write how an attempt ended."""
    path = folder / "attempts" / str(attempt) / "outcome.json"
    write_private(path, msgspec.json.encode(ended))


def going_in_circles(folder: Path, attempt: int) -> str:
    """Return why the chain of attempts should stop before this one; "" if it need not.

    It does when the last two attempts made no checkpoint that the one before did not have.
    """
    marks = []
    for number in range(attempt - 1, max(0, attempt - 2 - ATTEMPTS_WITHOUT_PROGRESS), -1):
        try:
            text = (folder / "attempts" / str(number) / "outcome.json").read_bytes()
            marks.append(str(json.loads(text)["checkpoint"]))
        except (OSError, ValueError, KeyError):
            begun = folder / "attempts" / str(number) / "begun"
            if not begun.is_file():
                return ""
            marks.append(newest_checkpoint(folder))  # it was killed without a word
    before = begun_with(folder, attempt - ATTEMPTS_WITHOUT_PROGRESS)
    if len(marks) < ATTEMPTS_WITHOUT_PROGRESS or before is None:
        return ""
    if any(mark != before for mark in marks[:ATTEMPTS_WITHOUT_PROGRESS]):
        return ""
    had = f"newer than {before}" if before else "at all"
    return (
        f"the last {ATTEMPTS_WITHOUT_PROGRESS} attempts left no checkpoint {had}: it would go on "
        f"like that. See {folder}/attempts/{attempt - 1}/logs, then bin/resume {folder} --anyway"
    )


def note_begin(folder: Path, attempt: int) -> None:
    """Write which checkpoint an attempt begins with."""
    path = folder / "attempts" / str(attempt) / "begun"
    path.write_text(newest_checkpoint(folder), encoding="utf-8")


def begun_with(folder: Path, attempt: int) -> str | None:
    """Return which checkpoint an attempt began with; None if that is not known."""
    try:
        return (folder / "attempts" / str(attempt) / "begun").read_text(encoding="utf-8")
    except OSError:
        return None
