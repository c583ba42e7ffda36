"""Where a live run can be met: written into its folder by the head, and into the keys of guests.

    runs/<name>/.meeting.json     of mode 0600, there while the run is going on
    <name>.key                    what `realnet grant` writes: the same, and one secret

Knows nothing of sockets. Used by `run.py`, the command line and `node.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import msgspec

from realnet import host
from realnet.actor import RunInfo
from realnet.errors import ConfigError, RunFolderError, SecurityError
from realnet.topology.plan import Plan

MEETING = ".meeting.json"


class Meeting(msgspec.Struct, frozen=True):
    """A run that is going on. `public` is the head's public key, if the run has keys.

    `sockets` is where a guest on this host may bind its own; empty if it has to dial in.
    """

    run: str
    attempt: int
    resumed: bool
    endpoint: str
    folder: str
    base: str
    pid: int
    guests: bool
    public: str = ""
    sockets: str = ""


class KeyFile(msgspec.Struct, frozen=True):
    """What a guest with a key needs: its name, its secret, and where the run is."""

    name: str
    secret: str
    meeting: Meeting


def meeting_of(plan: Plan, info: RunInfo, endpoint: str, sockets: Path) -> Meeting:
    """Return where a run that has just begun can be met."""
    keys = info.folder / "keys" / "public.json"
    public = json.loads(keys.read_bytes()) if plan.run["security"] == "curve" else {}
    plain = plan.run["transport"] == "ipc" and not public
    return Meeting(
        *(info.name, info.attempt, info.resumed, endpoint, str(info.folder), str(info.base)),
        *(os.getpid(), bool(plan.run["guests"])),
        public.get("head/0", ""),
        str(sockets) if plain else "",
    )


def write_meeting(meeting: Meeting) -> None:
    """Write it into the run's folder."""
    write_private(Path(meeting.folder) / MEETING, msgspec.json.encode(meeting))


def end_meeting(folder: Path) -> None:
    """The run is over."""
    with contextlib.suppress(FileNotFoundError):
        (folder / MEETING).unlink()


def read_meeting(folder: Path) -> Meeting:
    """Return where the run of a folder can be met. Raises RunFolderError if it is not going on."""
    try:
        meeting = msgspec.json.decode((folder / MEETING).read_bytes(), type=Meeting)
    except FileNotFoundError:
        known = (folder / "plan.json").is_file()
        raise RunFolderError(
            f"the run of {folder} is not going on: start it with realnet run"
            if known
            else f"{folder} is not the folder of a run: it has no plan.json"
        ) from None
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{folder / MEETING} is damaged: {error}") from None
    if not host.command_of(meeting.pid):
        raise RunFolderError(
            f"the run of {folder} is not going on: its head (pid {meeting.pid}) is gone without a "
            "last word"
        )
    if not meeting.guests:
        raise ConfigError(f"{meeting.run} takes no guests: [run] guests = false")
    return meeting


def read_key(path: Path) -> KeyFile:
    """Read what `realnet grant` wrote. Raises SecurityError."""
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise SecurityError(
                f"{path} is open to others (mode {mode:04o}): chmod 600 {path}, and grant a new "
                "key if somebody may have read it"
            )
        return msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        raise SecurityError(f"there is no key file {path}: realnet grant RUN --as NAME") from None
    except msgspec.DecodeError as error:
        raise SecurityError(f"{path} is no key file of realnet grant: {error}") from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all."""
    part = path.with_name(f".{path.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.replace(part, path)
