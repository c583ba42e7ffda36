"""The verb that lets others into a run: grant. It works on the run's folder; the run notices.

Knows nothing of roles. Registered by `cli.py`.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from realnet.cli_runs import RUNS, find_run
from realnet.errors import ConfigError, RunFolderError
from realnet.guest.meeting import KeyFile, read_meeting, write_private
from realnet.guest.register import check_guest_name, guest_slot
from realnet.topology.plan import read_plan


@click.command()
@click.argument("run")
@click.option("--as", "name", required=True, help="How the run will call the guest.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="The key file to write, of mode 0600 (default: NAME.key).",
)
@click.option("--revoke", is_flag=True, help="Take the key of this name back, at once.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def grant(run: str, name: str, out: Path | None, revoke: bool, runs: Path) -> None:
    """Make a key with which realnet.Node(key=...) may enter a live RUN from outside.

    It holds until the run ends, or until --revoke: whoever is inside with it is put out then.
    """
    from realnet.transport.grants import grant_key, revoke_key

    folder = find_run(runs, run)
    meeting = read_meeting(folder)
    if not meeting.public:
        raise ConfigError(
            f"{meeting.run} has no keys: on its host realnet.Node({str(folder)!r}) enters without "
            'one; for guests from elsewhere write transport = "tcp" in [run]'
        )
    check_guest_name(name, read_plan(folder))
    keys, slot = folder / "keys", guest_slot(name)
    if revoke:
        if not revoke_key(keys, slot):
            raise RunFolderError(f"{name} has no key of {meeting.run}")
        click.echo(f"the key of {name} opens {meeting.run} no more")
        return
    path = out if out is not None else Path(f"{name}.key")
    if path.exists():
        raise ConfigError(f"{path} exists: choose another file with --out")
    secret = grant_key(keys, slot)
    try:
        write_private(path, msgspec.json.encode(KeyFile(name, secret.decode(), meeting)))
    except OSError:
        revoke_key(keys, slot)
        raise
    click.echo(f'{path}: realnet.Node(key="{path}") enters {meeting.run} as {name}')


VERBS = (grant,)
