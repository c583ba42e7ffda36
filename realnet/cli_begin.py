"""What `realnet run` begins: a new run, a run that goes on, or one forked from another's weights.

A run that goes on takes keys that were changed since, as far as they may change, and its record
says which: a line each in events.jsonl, and the plan of each attempt in its folder.

Knows nothing of roles: what a fork takes along is said in `[run].from`, which they read. Called by
`cli.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from realnet.cli_runs import find_run
from realnet.errors import ConfigError
from realnet.observe.record import Record
from realnet.runfolder import RunFolder, new_name, newest_run
from realnet.topology import Plan, Source, read_plan, read_source, resolve
from realnet.topology.changes import Change, compare, refuse
from realnet.topology.plan import write_plan
from realnet.topology.source import A_FOLDER_NAME, names_a_folder

_FROM = "from"  # the key of [run] that names the origin of a fork


class Start(NamedTuple):
    """A run to be carried out: its topology, its plan, its folder, what changed since before."""

    source: Source
    plan: Plan
    path: Path
    changes: tuple[Change, ...] = ()


def start_new(topology: Path, overrides: tuple[str, ...], name: str, runs: Path) -> Start:
    """Return a run that does not exist yet. Raises ConfigError when it does."""
    source = read_source(topology, overrides, runs)
    if name and not names_a_folder(name):
        raise ConfigError(f"--name {name}: the run's folder under {runs}: {A_FOLDER_NAME}")
    path = runs / (name or new_name(runs, source.title))
    if (path / "plan.json").exists():
        raise ConfigError(f"{path} exists; resume it with --resume, or choose another --name")
    plan = resolve(source, path.name)
    _secrets_are_here(source, plan)
    return Start(source, plan, path)


def claimed(start: Start, runs: Path) -> Start:
    """Take the folder of a new run whose name nobody gave: another may begin at this moment, and
    then this one has the next name."""
    plan = start.plan
    while True:
        try:
            (runs / plan.name).mkdir(parents=True)
        except FileExistsError:
            plan = msgspec.structs.replace(plan, name=new_name(runs, start.source.title))
            continue
        except OSError:
            return start  # whoever opens the folder tells why
        return start._replace(plan=plan, path=runs / plan.name)


def start_fork(
    topology: Path, overrides: tuple[str, ...], name: str, runs: Path, origin: str
) -> Start:
    """Return a new run that begins with the weights of another: `origin` is RUN[@step].

    Raises RunFolderError when there is no such run.
    """
    run, step = _point(origin)
    text = str(find_run(runs, run).resolve()) + (f"@{step}" if step else "")
    given = f"run.{_FROM}={msgspec.json.encode(text).decode()}"
    return start_new(topology, (*overrides, given), name, runs)


def start_again(topology: Path, overrides: tuple[str, ...], name: str, runs: Path) -> Start:
    """Return a run that goes on, with what changed of its topology.

    Raises ConfigError naming each key that cannot change, why, and what to do instead.
    """
    source = read_source(topology, overrides, runs)
    path = find_run(runs, name) if name else newest_run(runs, source.title)
    before = read_plan(path)
    plan = resolve(source, path.name, again=True)
    origin = before.shared.get("run", {}).get("", {}).get(_FROM)
    if origin and _FROM not in source.tables.get("run", {}):
        # It was forked on the command line; that it was is no change now. What it was forked from
        # is not needed any more, so nobody has to find it.
        plan.shared["run"][""][_FROM] = origin
    _secrets_are_here(source, plan)
    changes = compare(before, plan)
    refuse(changes, path.name, str(topology))
    return Start(source, plan, path, tuple(changes.taken))


def _secrets_are_here(source: Source, plan: Plan) -> None:
    """Refuse a run whose roles would not get what they are to have from this shell."""
    lacking = [  # not by its name: somebody may have written the secret itself
        f"{source.where('roles', role.name)}.secrets: number {number} of these variables is not "
        "set in this shell: export it first, or take it out"
        for role in plan.roles.values()
        for number, name in enumerate(role.secrets, 1)
        if name not in os.environ
    ]
    if lacking:
        raise ConfigError("\n".join(lacking))


def write_down(start: Start, folder: RunFolder) -> None:
    """Write what this attempt runs, and what is not as before, into the run's record."""
    write_plan(start.plan, folder.logs.parent)
    if not start.changes:
        return
    now_s = time.monotonic()
    record = Record(folder.path, now_s, folder.attempt)
    for change in start.changes:
        row = {
            "text": f"changed: {change}",
            "changed": change.key,
            "before": change.before,
            "after": change.after,
        }
        record.write("head/0", "event", now_s, row)
    record.close()


def _point(text: str) -> tuple[str, str]:
    """Return the run and the step ("" for the newest) of "RUN@step"."""
    run, at, step = text.rpartition("@")
    if not at or "/" in step or not run:
        return text, ""
    if not (step in ("best", "last") or step.isdecimal()):
        raise click.BadParameter(
            f"{text}: write RUN, RUN@step with a number, RUN@best or RUN@last", param_hint="--from"
        )
    return run, step
