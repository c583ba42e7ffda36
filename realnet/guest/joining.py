"""How a guest gets to a run: which run, under which name and key, over which transport.

By the run's folder, on its host and as its user: over ipc the guest binds a socket beside those of
the run; where the run has keys it grants itself one. From anywhere else: by a key file, dial-only.

Knows nothing of actors. Called by `node.py`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from realnet.errors import ConfigError, SecurityError
from realnet.guest.meeting import Meeting, read_key, read_meeting
from realnet.guest.register import guest_slot
from realnet.transport import Transport


class Way(NamedTuple):
    """What a guest comes in with. `done` takes back what was made for it alone."""

    meeting: Meeting
    slot: str
    open: Callable[[], Transport]
    has_folder: bool
    done: Callable[[], None]


def way_in(run: str | Path, name: str, key: str | Path | None) -> Way:
    """Find the way into a run. Raises RunFolderError, SecurityError or ConfigError."""
    if key is not None:
        granted = read_key(Path(key))
        if name and name != granted.name:
            raise SecurityError(
                f"{key} is the key of {granted.name!r}, not of {name!r}: leave name out, or "
                f"realnet grant {granted.meeting.run} --as {name}"
            )
        folder = Path(run) if run else None
        if folder is not None and Path(granted.meeting.folder) != folder.resolve():
            raise SecurityError(f"{key} is for the run of {granted.meeting.folder}, not {folder}")
        open_it = _dialling(granted.meeting, granted.name, granted.secret.encode())
        slot = new_life(granted.name)
        return Way(granted.meeting, slot, open_it, folder is not None, _nothing)
    if not run:
        raise ConfigError("say which run: its folder, or key= with what realnet grant wrote")
    meeting = read_meeting(Path(run))
    name = name or f"guest-{secrets.token_hex(3)}"
    if meeting.public:
        return _self_granted(meeting, name)
    if meeting.sockets:
        slot = new_life(name)
        return Way(meeting, slot, _binding(meeting, slot), True, _nothing)
    return Way(meeting, new_life(name), _dialling(meeting, name, b""), True, _nothing)


def _nothing() -> None:
    """Nothing was made."""


def new_life(name: str) -> str:
    """Return a slot with an incarnation that is later than all before it."""
    return f"{guest_slot(name)}~{time.time_ns() // 1_000_000}"


def _self_granted(meeting: Meeting, name: str) -> Way:
    """Whoever may enter the keys folder may as well have a key, for as long as it is there."""
    from realnet.transport.grants import grant_key, revoke_key

    keys = Path(meeting.folder) / "keys"
    try:
        secret = grant_key(keys, guest_slot(name), replace=False)
    except PermissionError as error:
        raise SecurityError(
            f"{keys} cannot be entered ({error.strerror}): ask for a key, realnet grant "
            f"{meeting.run} --as {name}"
        ) from None

    def done() -> None:
        if keys.is_dir():
            revoke_key(keys, guest_slot(name))

    return Way(meeting, new_life(name), _dialling(meeting, name, secret), True, done)


def _binding(meeting: Meeting, slot: str) -> Callable[[], Transport]:
    def open_it() -> Transport:
        from realnet.transport.zmq import ZmqTransport, ipc_endpoint

        file = slot.replace("/", "-")
        return ZmqTransport(ipc_endpoint(Path(meeting.sockets), file))

    return open_it


def _dialling(meeting: Meeting, name: str, secret: bytes) -> Callable[[], Transport]:
    def open_it() -> Transport:
        from realnet.transport.dial import DialTransport
        from realnet.transport.security import guest_keys

        if not meeting.public:
            return DialTransport()
        head = {"head/0": meeting.public.encode()}
        return DialTransport(guest_keys(guest_slot(name), secret, head))

    return open_it
