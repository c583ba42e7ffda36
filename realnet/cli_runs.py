"""The verbs that look at runs: ls, top, why, logs, stop. They need only the run's folder.

Knows nothing of roles. Registered by `cli.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from realnet import host
from realnet.errors import RunFolderError, listed, nearest
from realnet.launch import STACKS, stacks_folder, stacks_path, writes_stacks
from realnet.observe.status import ActorStatus, RunStatus, chain, elsewhere, in_words, read_status
from realnet.observe.visible import visible
from realnet.topology.plan import read_plan

RUNS = Path("runs")
STACKS_S = 2.0
_run = click.argument("run", required=False)
_runs = click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)


def find_run(runs: Path, run: str | None) -> Path:
    """Return the folder of a run by path or name; without one the newest. Raises RunFolderError."""
    if run is not None:
        for path in (Path(run), runs / run):
            if (path / "plan.json").is_file():
                return path
        names = [p.parent.name for p in runs.glob("*/plan.json")]
        raise RunFolderError(
            f"there is no run {run!r} under {runs}.{nearest(run, names)} Runs: {listed(names)}"
        )
    found = sorted(runs.glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise RunFolderError(f"there are no runs under {runs}")
    return found[-1].parent


@click.command()
@_runs
def ls(runs: Path) -> None:
    """List the runs, newest last."""
    plans = sorted(runs.glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
    if not plans:
        click.echo(f"there are no runs under {runs}")
    for plan in plans:
        folder = plan.parent
        try:
            status = _status(folder)
            text = status.end or _going_on(status)
        except RunFolderError as error:
            text = str(error)
        click.echo(f"{folder.name:<24} {visible(text, one_line=True)}")


def _going_on(status: RunStatus) -> str:
    guests = [n.partition("/")[0] for n, s in status.slots.items() if s.state == "guest"]
    with_them = f", with {listed(guests)} as guest" + "s" * (len(guests) > 1) if guests else ""
    return f"going on for {status.age_s:.0f} s (pid {status.pid}){with_them}"


@click.command()
@_run
@_runs
@click.option("--once", is_flag=True, help="Print the table once.")
def top(run: str | None, runs: Path, once: bool) -> None:
    """Show what each role of a run does and waits for."""
    folder = find_run(runs, run)
    console = Console(highlight=False)
    if once or not console.is_terminal:
        console.print(_table(_status(folder)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = _status(folder)
            live.update(_table(status), refresh=True)
            if status.end:
                return
            time.sleep(0.5)


def _table(status: RunStatus) -> Table:
    state = status.end or f"{status.age_s:.0f} s"
    title = visible(f"{status.name}  attempt {status.attempt}  {state}", one_line=True)
    table = Table(title=Text(title), box=None)
    with_hosts = any(slot.host for slot in status.slots.values())
    process = "host" if with_hosts else "pid"
    for name in ("actor", "state", process, "restarts", "busy", "flow", "doing", "waits for"):
        table.add_column(name, justify="left", no_wrap=name == "actor")
    for slot_name, slot in status.slots.items():
        for name, actor in (slot.actors or {slot_name: ActorStatus(slot.failure)}).items():
            waits = [f"{on} ({age_s:.0f} s)" for on, age_s, _ in actor.waits]
            table.add_row(
                *(name, slot.state, slot.host if with_hosts else str(slot.pid or "")),
                *(str(slot.restarts), f"{actor.busy:.0%}"),
                Text(in_words(actor.ports)),
                *(Text(visible(t, one_line=True)) for t in (actor.doing, "; ".join(waits))),
            )
    return table


@click.command()
@_run
@_runs
@click.option("--stacks", is_flag=True, help="Also print the Python stacks of its processes.")
def why(run: str | None, runs: Path, stacks: bool) -> None:
    """Say what a run waits for: from the end of the work to whoever holds it up."""
    folder = find_run(runs, run)
    status = _status(folder)
    if status.end:
        click.echo(visible(f"{status.name} has ended: {status.end}"))
        return
    for line in chain(read_plan(folder), status):
        click.echo(visible(line))
    if stacks:
        if elsewhere(status) or any(slot.host for slot in status.slots.values()):
            raise RunFolderError("--stacks signals processes of this machine; these are on others")
        where = stacks_folder(folder, status.attempt)
        pids = {name: slot.pid for name, slot in status.slots.items()}
        for name, pid in {"head/0": status.pid, **pids}.items():
            click.secho(f"\n== {name}", bold=True)
            click.echo(_stacks(stacks_path(where, name), pid))


def _stacks(path: Path, pid: int) -> str:
    """Signal a process of this run and return what it writes."""
    if "realnet" not in host.command_of(pid) or not writes_stacks(path, pid):
        return "it has no process that can tell now"
    before = size = path.stat().st_size
    os.kill(pid, STACKS)
    end_s = time.monotonic() + STACKS_S
    while time.monotonic() < end_s:
        time.sleep(0.1)
        last, size = size, path.stat().st_size
        if before < size == last:
            break
    if size == before:
        return "it does not answer: it is stopped (SIGSTOP), or stuck in the kernel"
    with path.open("rb") as file:
        file.seek(before)
        return file.read().decode(errors="replace").strip()


@click.command()
@_run
@click.argument("role", required=False)
@_runs
@click.option("--lines", "-n", default=20, show_default=True, help="Last lines of each log.")
def logs(run: str | None, role: str | None, runs: Path, lines: int) -> None:
    """Print the last lines of the logs of a run's newest attempt (of one ROLE).

    Of a run under SLURM also of its newest job ("slurm").
    """
    whole = find_run(runs, run)
    folder = whole / "attempts" / "latest" / "logs"
    found = sorted(folder.glob("*.log"))
    found += sorted(whole.glob("slurm-*.log"), key=lambda p: p.stat().st_mtime)[-1:]
    chosen = [p for p in found if role is None or p.stem.rpartition("-")[0] == role]
    if not chosen:
        names = {p.stem.rpartition("-")[0] for p in found}
        raise RunFolderError(
            f"no log of {role!r} in {folder}.{nearest(role or '', names)} Roles: {listed(names)}"
        )
    for path in chosen:
        click.secho(f"== {path}", bold=True)
        click.echo("\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


@click.command()
@_run
@_runs
def stop(run: str | None, runs: Path) -> None:
    """Ask a run to stop in order, as Ctrl-C does, and wait for it."""
    folder = find_run(runs, run)
    status = _status(folder)
    if status.end:
        click.echo(visible(f"{status.name} has ended: {status.end}"))
        return
    if elsewhere(status):
        from realnet.slurm.queue import interrupt

        interrupt(folder)
    else:
        os.kill(status.pid, signal.SIGINT)
    end_s = time.monotonic() + 40
    while time.monotonic() < end_s:
        status = _status(folder)
        if status.end:
            click.echo(visible(f"{status.name}: {status.end}"))
            return
        time.sleep(0.1)
    raise RunFolderError(f"{status.name} (pid {status.pid}) has not stopped in 40 s")


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def agent(words: tuple[str, ...]) -> None:
    """Be the agent of this host in a run over several (SLURM starts it; see realnet agent -h)."""
    from realnet.launch.agent import main

    sys.exit(main(words))


def _status(folder: Path) -> RunStatus:
    """Read the state of a run; of one that SLURM has not begun say what its job waits for."""
    from realnet.slurm.queue import in_words

    try:
        return read_status(folder)
    except RunFolderError:
        told = in_words(folder)
        if not told:
            raise
        raise RunFolderError(f"{folder} has not begun: {told}") from None


VERBS = (ls, top, why, logs, stop, agent)
