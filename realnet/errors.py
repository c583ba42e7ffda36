"""The exception tree. Every text says what happened, where, and what to do next.

    RealnetError
    ├── ConfigError          a topology is wrong: file, table, key, nearest right name
    │   └── LostReference    a name in it leads nowhere (module, file, reward, model)
    ├── WireError            bytes that do not decode to the declared record
    │   ├── UnknownKind      a record kind that the receiver never declared
    │   └── TooLarge         over a size, count or depth limit; refused before decoding
    ├── AskError             a request got no reply
    │   ├── DeadlineExceeded the time budget of the request ran out
    │   ├── PeerDied         the callee died while the request was open
    │   ├── NoPeer           nobody serves this port
    │   ├── Overloaded       the mailbox of the callee is full
    │   └── Refused          the callee raised; its text is carried, never its code
    ├── RoleFailed           a role instance ended the run: role, host, cause, next step
    ├── RunFolderError       the folder of a run cannot be used (locked, not there, not a run)
    ├── SecurityError        keys that are missing, open to others, or not this run's
    ├── CheckpointError      a checkpoint or journal is damaged or does not fit
    └── Stopping             the actor is being stopped; let it pass through

Knows nothing of roles, sockets or files. Everything in realnet raises from here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RealnetError(Exception):
    """Base of every error that realnet raises on purpose."""


class ConfigError(RealnetError):
    """A topology, or a value in it, is wrong."""


class LostReference(ConfigError):
    """A reference in a topology leads nowhere."""


class WireError(RealnetError):
    """Bytes from a peer or a file do not decode to the declared record."""


class UnknownKind(WireError):
    """A record of a kind that the receiver never declared."""


class TooLarge(WireError):
    """Over a limit of size, count or depth. Refused before decoding."""


class AskError(RealnetError):
    """A request got no reply."""


class DeadlineExceeded(AskError, TimeoutError):
    """The time budget of a request ran out."""


class PeerDied(AskError):
    """The callee died while the request was open."""


class NoPeer(AskError):
    """Nobody serves this port now."""


class Overloaded(AskError):
    """The mailbox of the callee is full: it took nothing of this."""


class Refused(AskError):
    """The callee raised an error; this carries its text."""


class RoleFailed(RealnetError):
    """A role instance ended the run."""


class RunFolderError(RealnetError):
    """The folder of a run cannot be used."""


class SecurityError(RealnetError):
    """Keys are missing, open to others, or not those of this run."""


class CheckpointError(RealnetError):
    """A checkpoint or journal is damaged, or does not fit this run."""


class Stopping(RealnetError):
    """The actor is being stopped. Let it pass."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the known name closest to `name`, or ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


def listed(names: Iterable[str]) -> str:
    """Return the names, sorted and comma-separated, for the end of an error text."""
    return ", ".join(sorted(names)) or "none"


def ensure(condition: bool, text: str) -> None:
    """Raise when an invariant of realnet itself is broken. Stays on under `python -O`."""
    if not condition:
        raise AssertionError(f"{text} (this should never happen: please report it)")
