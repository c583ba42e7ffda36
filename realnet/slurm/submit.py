"""bin/submit, join, cancel and resume: what is done on the login node.

A run is resolved, planned and looked at here; what cannot work is told before a job spends time.
Knows nothing of roles. The jobs themselves are `job.py` and `element.py`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from shlex import quote

import click

from realnet.cli import Tidy, resolved_text
from realnet.cli_begin import Start, claimed, start_new
from realnet.cli_runs import RUNS, find_run
from realnet.cli_topology import file_argument, set_option
from realnet.config import to_plain
from realnet.errors import ConfigError, RealnetError, listed, nearest
from realnet.slurm import commands
from realnet.slurm.parts import divide
from realnet.slurm.queue import POLL_S, going_on, live_jobs, unended
from realnet.slurm.records import (
    Job,
    Submission,
    first_free,
    note_job,
    read_submission,
    write_submission,
)
from realnet.slurm.script import (
    array_script,
    job_script,
    node_script,
    node_script_path,
    site_of,
)
from realnet.slurm.site import Site, for_pool, read_site
from realnet.slurm.travel import code_path, python_of, refuse_what_cannot_travel, secrets_of
from realnet.topology.placement import Placement, placement_lines, spread
from realnet.topology.plan import Plan, RolePlan, read_plan, write_plan

CANCEL_S = 10.0
_at_least = click.IntRange
_runs = click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
_run = click.argument("run", required=False)
_dry = click.option("--dry-run", is_flag=True, help="Print what would be submitted, no more.")


class _Named(click.Context):
    """A command that people call by its script."""

    @property
    def command_path(self) -> str:
        return f"bin/{self.info_name}"


class _Script(click.Command):
    context_class = _Named


class _Scripts(Tidy):
    command_class = _Script


@click.group(cls=_Scripts, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Runs under SLURM, from the login node."""


@main.command()
@file_argument
@set_option
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=None,
    help="How many; else as few as hold the topology.",
)
@click.option(
    "--spares",
    type=click.IntRange(min=0),
    default=0,
    help="More nodes, for when one is unfit or lost.",
)
@click.option("--name", default="", help="Name of the run's folder under runs/.")
@click.option("--site", "site_file", type=click.Path(path_type=Path), help="The site file.")
@_dry
@_runs
def submit(
    topology: Path,
    overrides: tuple[str, ...],
    nodes: int | None,
    spares: int,
    name: str,
    site_file: Path | None,
    dry_run: bool,
    runs: Path,
) -> None:
    """Resolve a topology, place it, and submit it as one job."""
    site, where = read_site(site_file)
    start = start_new(topology, overrides, name, runs.resolve())
    asked, placement = what_is_asked(start.plan, site, nodes or 0, spares, dry_run)
    if not dry_run:
        sites = [for_pool(site, part.pool) for part in asked.kinds()]
        refuse_what_cannot_travel(start.path, start.plan, sites)
    scripts = scripts_of(start, site, asked)
    job, *others = scripts.items()
    if dry_run:
        click.echo(f"# site: {where or 'none, the defaults'}\n{job[1]}")
        for path, text in others:
            click.echo(f"# {path}\n{text}")
        click.echo(f"# sbatch --parsable < {quote(str(job[0]))}\n")
        click.echo("\n".join(placement_lines(placement)))
        return
    if not others:  # sbatch cannot try a job of several parts
        commands.call(["sbatch", "--test-only"], text=job[1])
    made = not start.path.exists()
    if not name:  # another may begin at this moment
        start = claimed(start, runs.resolve())
        scripts = scripts_of(start, site, asked)
    try:
        number = _submit_new(start, asked, scripts)
    except commands.UnansweredError:  # there may be a job all the same
        raise
    except RealnetError:
        if made:  # nothing came of it: the name is free again
            shutil.rmtree(start.path)
        raise
    num_spares = asked.spares
    click.echo(
        f"{start.path}: job {number}, {asked.nodes} nodes"
        + (f" + {num_spares} spares" * bool(num_spares))
    )
    folder = quote(str(start.path))
    click.echo(f"realnet top {folder}; realnet logs {folder}; bin/cancel {folder}")


def scripts_of(start: Start, site: Site, asked: Submission) -> dict[Path, str]:
    """Return the texts of the job's script, and of those for nodes of other kinds after it."""
    script = job_script(start.path, start.path.name, asked, secrets_of(start.plan))
    return {
        start.path / "job.sh": script,
        **{
            node_script_path(start.path, part.pool): node_script(for_pool(site, part.pool))
            for part in asked.kinds()[1:]
        },
    }


def _submit_new(start: Start, asked: Submission, scripts: dict[Path, str]) -> int:
    """Write down what was asked for and submit it; return the number of the job."""
    start.path.mkdir(parents=True, exist_ok=True)
    write_plan(start.plan, start.path)
    (start.path / "topology.toml").write_text(resolved_text(start.source), encoding="utf-8")
    for path, text in scripts.items():
        path.write_text(text, encoding="utf-8")
    write_submission(start.path, asked)
    return _sbatch(start.path, scripts[start.path / "job.sh"], Job("run"))


def what_is_asked(
    plan: Plan, site: Site, nodes: int, spares: int, dry_run: bool
) -> tuple[Submission, Placement]:
    """Return what is asked for, and who would live where. Raises ConfigError."""
    parts, placement = divide(
        *(plan, site, nodes, spares),
        lambda partition: [] if dry_run else commands.shapes_of(partition),
    )
    asked = Submission(
        nodes=sum(p.nodes for p in parts),
        spares=sum(p.spares for p in parts),
        gpus=max(p.gpus for p in parts),
        cpus=max(p.cpus for p in parts),
        python=python_of(site),
        path=code_path(),
        site=to_plain(site),
        parts=[p for p in parts if p.pool],
    )
    return asked, placement


@main.command()
@click.argument("run")
@click.option("--role", required=True, help="The elastic role ([roles.X] max = ...).")
@click.option("--count", type=_at_least(1), default=1, help="How many more members (1).")
@click.option("--partition", default="", help="Another one than the run's own.")
@_dry
@_runs
def join(run: str, role: str, count: int, partition: str, dry_run: bool, runs: Path) -> None:
    """Bring more hosts to a run that is going on, a node's share for each member."""
    folder = find_run(runs, run).resolve()
    asked, plan = read_submission(folder), read_plan(folder)
    planned = plan.roles.get(role)
    if planned is None:
        raise ConfigError(
            f"{folder.name} has no role {role!r}.{nearest(role, plan.roles)} It has: "
            f"{listed(plan.roles)}"
        )
    free = sum(s.elastic and s.roles[0] == role and not s.rank for s in spread(plan, "").slots)
    here = sum(j.count for j in _live(folder, dry_run) if j.what == role)
    if not free:
        raise ConfigError(f"[roles.{role}] of {folder.name} is not elastic: it needs max = ...")
    if here + count > free:
        raise ConfigError(
            f"{role} may have {free} members beside its {planned.count}; {here} are there or on "
            f"their way: at most {free - here} more"
        )
    if not dry_run:
        refuse_what_cannot_join(folder, planned, for_pool(site_of(asked), planned.pool), partition)
    first = first_free(asked.nodes + asked.spares, count, _live(folder, dry_run))
    script = array_script(
        *(folder, folder.name, asked, role, first, count),
        *(planned.gpus * planned.ranks, planned.cpus * planned.ranks, partition, planned.pool),
        secrets_of(plan),
    )
    if dry_run:
        click.echo(script)
        return
    number = _sbatch(folder, script, Job(role, 0, first, count))
    click.echo(f"{folder.name}: job {number}, {count} more hosts for {role}")


def refuse_what_cannot_join(folder: Path, role: RolePlan, site: Site, partition: str) -> None:
    """Refuse hosts for a run that is not there, or too small ones. Raises RealnetError."""
    if not any(j.what == "run" for j in _live(folder)):
        raise RealnetError(f"{folder.name} is not going on: bin/resume {folder} begins it again")
    where = partition or site.partition
    num_cpus, num_gpus = role.cpus * role.ranks, role.gpus * role.ranks
    memory_bytes = role.memory_bytes * role.ranks
    shapes = commands.shapes_of(where)
    if not any(
        s.cpus >= num_cpus and s.gpus >= num_gpus and s.memory_bytes >= memory_bytes for s in shapes
    ):
        have = "; ".join(f"{s.nodes} x ({s.cpus} cores, {s.gpus} GPUs)" for s in shapes)
        raise ConfigError(
            f"a member of {role.name} needs {num_cpus} cores, {num_gpus} GPUs, "
            f"{memory_bytes / 2**30:.3g} GiB: no node of {where or 'the default partition'} has "
            f"them ({have})"
        )


@main.command()
@_run
@click.option("--now", is_flag=True, help="Kill at once, without a checkpoint.")
@_runs
def cancel(run: str | None, now: bool, runs: Path) -> None:
    """End the jobs of a run, by the numbers that it noted: elastic ones first.

    Also what it submits, or has started again, while it is being ended.
    """
    folder = find_run(runs, run).resolve()
    cancelled: list[int] = []
    until_s = time.monotonic() + CANCEL_S
    while jobs := unended(folder):
        for number, ending in jobs:
            if ending and number in cancelled:
                continue
            if now:
                commands.call(["scancel", "--full", "--signal=KILL", str(number)])
            commands.call(["scancel", str(number)])
            cancelled += [number] * (number not in cancelled)
        if time.monotonic() > until_s:
            break
        time.sleep(POLL_S)
    numbers = ", ".join(map(str, cancelled))
    click.echo(f"{folder.name}: cancelled {numbers}" if numbers else f"{folder.name} has no job")


@main.command()
@_run
@click.option("--anyway", is_flag=True, help="Though the last attempts got nowhere.")
@_dry
@_runs
def resume(run: str | None, anyway: bool, dry_run: bool, runs: Path) -> None:
    """Submit a run again, to go on from its newest checkpoint."""
    folder = find_run(runs, run).resolve()
    read_submission(folder)  # or there is nothing to resume
    script = (folder / "job.sh").read_text(encoding="utf-8")
    if anyway:
        script = script.replace("\nexec ", "\nexport REALNET_ANYWAY=1\nexec ", 1)
    if dry_run:
        click.echo(script)
        return
    going = going_on(folder)
    if going:
        raise RealnetError(f"{folder.name} is going on as job {going}: bin/cancel ends it")
    number = _sbatch(folder, script, Job("run"))
    click.echo(f"{folder.name}: job {number}")


# ------------------------------------------------------------ jobs


def _sbatch(folder: Path, script: str, job: Job) -> int:
    """Submit a script and note its number: before, that it was tried; after, which it is."""
    note_job(folder, job)
    told = commands.call(["sbatch", "--parsable"], text=script)
    number = int(told.partition(";")[0])
    note_job(folder, Job(job.what, number, job.first, job.count))
    return number


def _live(folder: Path, dry_run: bool = False) -> list[Job]:
    return [] if dry_run else live_jobs(folder)


if __name__ == "__main__":
    main()
