"""`realnet.lock`: which commit of a model or data set each reference of this folder means.

One file for all topologies of a folder, made to be committed beside them. Knows its form only.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from realnet.errors import ConfigError
from realnet.references import HubReference, parse_reference

LOCK = "realnet.lock"


class Pin(msgspec.Struct, frozen=True):
    """What one reference means: a commit, and the files of it that are used."""

    repo: str
    kind: str  # "model" or "dataset"
    commit: str
    files: tuple[str, ...]


Pins = dict[str, Pin]


def read_lock(base: Path) -> Pins:
    """Return the pins of a folder, none without a lock file. Raises ConfigError."""
    path = base / LOCK
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pins)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} does not read: {error}. Bring it back, or remove it and `realnet fetch` again"
        ) from None


def write_lock(base: Path, pins: Pins) -> Path:
    """Write the pins of a folder, sorted, whole or not at all."""
    path = base / LOCK
    fresh = path.with_name(f"{LOCK}.partial")
    text = msgspec.json.format(msgspec.json.encode(dict(sorted(pins.items()))), indent=1)
    fresh.write_bytes(text + b"\n")
    os.replace(fresh, path)
    return path


def key_of(kind: str, reference: str) -> str:
    """Return the name of a pin: one name may be a model and a data set."""
    return f"{kind} {reference}"


def hub_reference(text: str) -> HubReference:
    """Return the parts of "hf:owner/name...". Raises ConfigError."""
    try:
        found = parse_reference(text, ("hf",))
    except ValueError as error:
        raise ConfigError(f'"{text}": {error}') from None
    if not isinstance(found, HubReference):
        raise ConfigError(f'"{text}" is nothing of the Hugging Face hub')
    return found
