"""The command line: run and report (and the verbs of `cli_topology.py`, `cli_runs.py` and plugins).

Thin: reads a topology, hands it on, prints errors without tracebacks. Knows nothing of roles.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from realnet import cli_guests, cli_topology, host
from realnet.cli_begin import Start, claimed, start_again, start_fork, start_new, write_down
from realnet.cli_runs import RUNS, VERBS, find_run
from realnet.cli_topology import file_argument, set_option
from realnet.cli_verbs import load_verb, registered_verbs
from realnet.compiled import FORM, damaged
from realnet.errors import ConfigError, RealnetError, nearest
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_RETRY
from realnet.leftovers import run_and_leave
from realnet.topology import Plan, Source, read_plan
from realnet.topology.kinds import load_object

if TYPE_CHECKING:
    from realnet.run import Outcome
    from realnet.runfolder import RunFolder

OWN_FILES, FILES_OF_A_LINK = 50, 10  # measured: three lanes, each with its monitor
_THE_DISK, _NO_RIGHT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS), (errno.EACCES, errno.EPERM)
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Tidy(click.Group):
    """Shows realnet's own errors as what they are: text for the user. Finds packages' verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *registered_verbs()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        added = registered_verbs().get(cmd_name) if own is None else None
        return own if added is None else load_verb(added)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = nearest(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command {args[0]!r}.{near}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _complain(str(error))
            sys.exit(EXIT_CONFIG)
        except RealnetError as error:
            _complain(str(error))
            sys.exit(1)
        except OSError as error:
            if error.errno in _NO_ROOM:
                _complain(host.no_room(error))
            elif error.errno in _NO_RIGHT:
                _complain(f"{error.filename or 'a file'} may not be used: {error.strerror}")
            elif error.errno in _THE_DISK:
                places = f"a file (under {Path.cwd()} or {tempfile.gettempdir()})"
                _complain(f"{error.filename or places} cannot be written: {error.strerror}")
            else:
                raise
            sys.exit(1)


def _complain(text: str) -> None:
    for line in text.splitlines():
        if not line.startswith("    "):  # the line of a file that is shown
            click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(line, err=True)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    click.echo(f"realnet, version {version('realnet-rl')}\nhot path: {FORM}")
    why = damaged() if FORM.startswith("compiled") else ""
    if why:
        _complain(why)
    ctx.exit(1 if why else 0)


@click.group(cls=Tidy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, and which form of the hot path runs; look at its libraries.",
)
def main() -> None:
    """Typed actors over ZeroMQ, wired by a topology file."""


for _verb in (*cli_topology.VERBS, *VERBS, *cli_guests.VERBS):
    main.add_command(_verb)


@main.command()
@file_argument
@set_option
@click.option("--name", default="", help="Name of the run's folder under runs/.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the newest run of this topology, or --name. Most keys may have changed.",
)
@click.option(
    "--from",
    "origin",
    default="",
    metavar="RUN[@STEP]",
    help="Begin a new run with the weights of another: its newest checkpoint, @STEP, or @best.",
)
@click.option("--inline", is_flag=True, help="All roles in one process and loop (to debug).")
@click.option(
    "--hosts",
    default=0,
    type=click.IntRange(min=0),
    help="Start N agents here, as on N hosts (as SLURM does).",
)
@click.option(
    "--spares",
    default=0,
    type=click.IntRange(min=0),
    help="With --hosts: so many more, for when one is lost.",
)
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def run(
    topology: Path,
    overrides: tuple[str, ...],
    name: str,
    resume: bool,
    origin: str,
    inline: bool,
    hosts: int,
    spares: int,
    runs: Path,
) -> None:
    """Run a topology on this machine until it is done. Ctrl-C stops it in order."""
    if resume and origin:
        raise click.UsageError("--resume goes on with a run, --from begins a new one: choose one")
    if inline and (hosts or spares):
        raise click.UsageError("--inline runs all roles in this process: there are no hosts then")
    if spares and not hosts:
        raise click.UsageError("--spares are beside the hosts of --hosts N: say how many those are")
    if resume:
        start = start_again(topology, overrides, name, runs)
    elif origin:
        start = start_fork(topology, overrides, name, runs, origin)
    else:
        start = start_new(topology, overrides, name, runs)
    if not inline:
        _enough_files(start.plan)
    if not resume and not name:
        start = claimed(start, runs)
    sys.exit(_run(topology, start, resume, inline, (hosts, spares), runs))


def _run(
    topology: Path, start: Start, resume: bool, inline: bool, hosts: tuple[int, int], runs: Path
) -> int:
    from realnet.launch.fleet import LocalFleet
    from realnet.run import run_plan
    from realnet.runfolder import RunFolder

    made, path = start.plan, start.path
    folder = RunFolder(path, resumed=resume)
    where = "" if runs == RUNS else f" --runs {runs}"
    again = f"go on with: realnet run {topology} --resume --name {path.name}{where}"
    try:
        view = view_of(made)
    except BaseException:
        folder.close()
        raise
    try:
        view.say(f"{path}  ({'resumed, ' if resume else ''}attempt {folder.attempt})")
        for change in start.changes:
            view.say(f"changed: {change}")
        write_down(start, folder)
        (folder.path / "topology.toml").write_text(resolved_text(start.source), encoding="utf-8")
        clean = True
        if inline:
            outcome, clean = run_and_leave(run_plan(made, folder, view, inline=True))
        else:
            import uvloop

            fleet = LocalFleet(folder.path, *hosts) if hosts[0] else None
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcome = runner.run(run_plan(made, folder, view, fleet=fleet))
        for line in view.summary():
            view.say(line)
        view.say(last_message(outcome, folder, again))
        if not clean:  # a role that does not let itself be cancelled, in this very process
            folder.close()
            sys.stdout.flush()
            os._exit(outcome.code)
        return outcome.code
    except KeyboardInterrupt:  # while nothing of the run is left but this process
        view.stop()
        view.say(f"ended: asked to stop\n{again}")
        return EXIT_INTERRUPTED
    finally:
        folder.close()


def _enough_files(plan: Plan) -> None:
    """Refuse what would meet the limit in the middle, where libzmq ends the process."""
    needed, most = OWN_FILES + FILES_OF_A_LINK * len(plan.slots), host.allow_files()
    if most < needed:
        raise RealnetError(
            f"{len(plan.slots)} processes, each linked to all, need up to {needed} open files "
            f"each; here they may have {most} (ulimit -n -H): allow more, or run fewer members"
        )


def last_message(outcome: Outcome, folder: RunFolder, again: str) -> str:
    """One message: which role, on which host, the cause, and what to do next."""
    if outcome.code == 0:
        return f"done: {outcome.text}"
    lines = [f"ended: {outcome.text}"]
    if outcome.code in (EXIT_FAILED, EXIT_CONFIG, EXIT_RETRY):
        lines.append(f"logs: {os.path.relpath(folder.logs)}")
    if outcome.code == EXIT_CONFIG:
        lines.append(f"this would end the same way again: correct it first, then {again}")
    elif outcome.code == EXIT_RETRY:
        lines.append(f"it may be tried again as it is: {again}")
    else:
        lines.append(again)
    return "\n".join(lines)


def view_of(made: Plan) -> Any:
    """Return what shows a run in this terminal."""
    from realnet.observe.view import View

    reference = str(made.run.get("view", ""))
    cls = load_object(reference, Path(made.base), "[run].view") if reference else View
    return cls(Console(highlight=False, soft_wrap=True))


def resolved_text(source: Source) -> str:
    """The merged topology, each value with the file that wrote it."""
    lines = [f"# resolved from {source.path}"]
    for top, tables in source.tables.items():
        sections = {"": tables} if top in ("run", "policy", "wires") else tables
        for name, section in sections.items():
            path = f"{top}.{name}" if name else top
            lines.append(f"\n[{path}]")
            for key, value in section.items():
                origin = source.origin.get(f"{path}.{key}", "")
                lines.append(f"{key} = {_toml(value)}    # {origin}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return repr(value)


@main.command()
@click.argument("run", required=False)
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def report(run: str | None, runs: Path) -> None:
    """Write report.html of a run again: of the newest, or by name or folder."""
    folder = find_run(runs, run)
    made = read_plan(folder)
    reference = str(made.run.get("report", ""))
    if not reference:
        raise ConfigError(f"{folder}: its topology names no [run].report")
    click.echo(load_object(reference, Path(made.base), "[run].report")(folder))


if __name__ == "__main__":
    main()
