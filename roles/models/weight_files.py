"""Whether the files of a model's weights are whole, from their headers alone.

A *.safetensors file begins with the length of a header that says how many bytes follow. Reads no
weights and needs no torch. Called by `check.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from realnet.errors import ConfigError

_LONGEST_HEADER = 100 << 20  # of the format
_LFS = b"version https://git-lfs"


def check_weight_files(folder: Path) -> None:
    """Raise ConfigError, naming the file, when one is cut off, none at all, or not there."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ConfigError(
            f"[policy].model: {folder} has no *.safetensors: realnet reads weights in no other "
            "form (others can hold code)"
        )
    for path in found:
        wrong = _wrong_with(path)
        if wrong:
            raise ConfigError(f"[policy].model: {path} {wrong}")
    for index in folder.glob("*.safetensors.index.json"):
        _check_index(index, {path.name for path in found})


def _wrong_with(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start + file.read(len(_LFS) - 8) == _LFS:
                return "is a pointer of git-lfs and not the weights: git lfs pull"
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 0 < length <= min(size - 8, _LONGEST_HEADER):
                return f"is no safetensors file, or cut off in its header: it has {size} bytes"
            file.seek(8)
            header = json.loads(file.read(length))
        ends = [int(t["data_offsets"][1]) for n, t in header.items() if n != "__metadata__"]
    except OSError as error:
        return f"does not read: {error.strerror}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "is no safetensors file: its header does not read"
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        return f"was cut off: {size} of {whole} bytes are there. Bring it again"
    return ""


def _check_index(index: Path, have: set[str]) -> None:
    try:
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        lacking = sorted(str(name) for name in wanted - have)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"[policy].model: {index} does not read: {error!r}") from None
    if lacking:
        raise ConfigError(
            f"[policy].model: {index} names files that are not there: {', '.join(lacking[:5])}"
        )
