"""The batch script of a run: its head, and what becomes of the job when the head has ended.

    python -m realnet.slurm.job FOLDER        (the last line of the script, by exec)

SLURM's USR2 comes to this process: the run is stopped in order, checkpoints, and goes on in
another life of the job (or a new job, as the site says). It looks at its own time limit as well.
Exit codes: 0 the run is done; 75 it goes on in another life; 93 it should not be started again; 1 a
role failed.

Knows nothing of roles. The head itself is `run.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from realnet.cli import last_message, view_of
from realnet.errors import ConfigError, RealnetError
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_NEVER, EXIT_RETRY
from realnet.observe.record import read_rows
from realnet.run import Outcome, run_plan
from realnet.runfolder import RunFolder
from realnet.slurm import commands
from realnet.slurm.fleet import SlurmFleet
from realnet.slurm.records import (
    Ended,
    Job,
    going_in_circles,
    newest_checkpoint,
    note_begin,
    note_job,
    read_jobs,
    read_submission,
    write_ended,
)
from realnet.slurm.script import site_of
from realnet.slurm.successor import submit_successor
from realnet.topology.plan import Plan, read_plan

ANYWAY = "REALNET_ANYWAY"
LAST_LINES = 20
REQUEUED_S = 60.0


def main(folder: Path) -> int:
    """Run one life of the job."""
    job = os.environ["SLURM_JOB_ID"]
    asked, plan = read_submission(folder), read_plan(folder)
    site = site_of(asked)
    nodes = _nodes(len(asked.kinds()))
    attempts = [p for p in (folder / "attempts").glob("*") if p.name.isdigit()]
    run = RunFolder(folder, resumed=bool(attempts))
    try:
        _say(f"{folder} attempt {run.attempt}: job {job} on {_listed(nodes)}")
        if job.isdecimal() and int(job) not in [j.number for j in read_jobs(folder)]:
            note_job(folder, Job("run", int(job)))  # its sbatch was not heard of
        note_begin(folder, run.attempt)
        circles = "" if os.environ.get(ANYWAY) else going_in_circles(folder, run.attempt)
        if circles:
            write_ended(folder, run.attempt, Ended(EXIT_NEVER, circles, newest_checkpoint(folder)))
            _say(f"not started again: {circles}")
            end_elastic(folder)
            return EXIT_NEVER
        fleet = SlurmFleet(folder, asked, nodes, os.environ.get("SLURMD_NODENAME", ""))
        _watch_the_clock(job, float(site.notice))
        outcome = _run(plan, run, fleet)
        write_ended(
            folder, run.attempt, Ended(outcome.code, outcome.text, newest_checkpoint(folder))
        )
        report = failure_report(folder, run.attempt) if outcome.code else ""
        if report:
            (run.logs.parent / "failure.txt").write_text(report, encoding="utf-8")
            _say(report)
        _say(last_message(outcome, run, f"go on with: bin/resume {folder}"))
    except Exception:  # a bug: nobody else should wait for this run
        end_elastic(folder)
        raise
    finally:
        run.close()
    return _afterwards(folder, outcome, site.again, job)


def _nodes(num_kinds: int) -> list[list[str]]:
    """Return the nodes of each part of the job."""
    names = ["SLURM_JOB_NODELIST"]
    if num_kinds > 1:
        names = [f"SLURM_JOB_NODELIST_HET_GROUP_{n}" for n in range(num_kinds)]
    return [commands.host_names(os.environ[name]) for name in names]


def _listed(nodes: list[list[str]]) -> str:
    return "; ".join(", ".join(part) for part in nodes)


def _run(plan: Plan, run: RunFolder, fleet: SlurmFleet) -> Outcome:
    import uvloop

    view = view_of(plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run_plan(plan, run, view, fleet=fleet))
    for line in view.summary():
        view.say(line)
    return outcome


def _afterwards(folder: Path, outcome: Outcome, again: str, job: str) -> int:
    """Decide what becomes of the job, by how the run ended."""
    if outcome.code != EXIT_RETRY:
        end_elastic(folder)
        return EXIT_NEVER if outcome.code == EXIT_CONFIG else outcome.code
    if outcome.by == "SIGTERM":  # SLURM itself ends the job: it knows whether it comes again
        return EXIT_RETRY
    ended = (
        threading.Event()
    )  # by SLURM: what we submit is noted first, so that it can be cancelled
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    try:
        if again == "requeue":
            _say(f"job {job} is requeued")
            commands.call(["scontrol", "requeue", job], shielded=True)
            ended.wait(REQUEUED_S)  # it ends this life, and would wait for us
        elif again == "successor":
            _say(f"job {submit_successor(folder, job)} goes on with it")
    except RealnetError as error:
        _say(f"it does not go on by itself: {error}")
    return EXIT_RETRY


def end_elastic(folder: Path) -> None:
    """Cancel the jobs of elastic hosts: nobody needs them now."""
    jobs = [str(j.number) for j in read_jobs(folder) if j.what != "run"]
    if jobs:
        with contextlib.suppress(RealnetError):
            commands.call(["scancel", *jobs])


def _watch_the_clock(job: str, notice_s: float) -> None:
    """Ask ourselves to stop in time: a cluster may send its signal late, or not at all."""
    left_s = commands.seconds_left(job)
    if left_s is None:
        return
    timer = threading.Timer(
        max(left_s - notice_s, left_s / 2), os.kill, (os.getpid(), signal.SIGUSR2)
    )
    timer.daemon = True
    timer.start()


def failure_report(folder: Path, attempt: int) -> str:
    """Return who failed first in an attempt, why, and the last lines of its log; "" if nobody."""
    for row in read_rows(folder / "events.jsonl"):
        slot = row.get("slot")
        if row.get("attempt") == attempt and slot and " died: " in str(row["text"]):
            name = str(slot).replace("/", "-")
            log = folder / "attempts" / str(attempt) / "logs" / f"{name}.log"
            try:
                lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            except OSError:
                lines = []
            told = [f"first to fail, {row['time_s']:.1f} s after the start: {row['text']}"]
            return "\n".join([*told, f"the last lines of {log}:", *(f"  {x}" for x in lines)])
    return ""


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except ConfigError as error:
        _say(str(error))
        sys.exit(EXIT_NEVER)
    except RealnetError as error:
        _say(str(error))
        sys.exit(EXIT_FAILED)
