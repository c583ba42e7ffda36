"""Versions as safetensors files: whole or not there, the last few kept.

A file has no gaps between its tensors and needs none of realnet's code to be read. It is written
beside its place and renamed when it is on the disk; what a version is (manifest and digests) stands
in its metadata. Tensors that others load by name keep their names, shapes and dtypes.

Knows files and layouts; knows nothing of actors. Called by the parameter server (writes) and
`receiver.py` (reads), in threads.
"""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from realnet.roles.messages import Manifest, Version
from realnet.roles.weights.digests import Buffer, WeightsDamaged, WeightsGone, check
from realnet.roles.weights.layout import ALIGN, full_dtype

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_MAX_HEADER_BYTES = 100 * 2**20
_SUFFIX = ".safetensors"


def path_of(folder: Path, version: Version) -> Path:
    """Return where a version's file is."""
    return folder / f"{version.policy}-{version.branch:03d}-{version.number:08d}{_SUFFIX}"


def write(folder: Path, manifest: Manifest, view: memoryview) -> Path:
    """Write a version; return its path when it is on the disk under that name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, manifest.version)
    part = path.with_suffix(f".{os.getpid()}.tmp")
    header, at = {}, 0
    for tensor in manifest.tensors:
        header[tensor.name] = {
            "dtype": _CODES[full_dtype(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.num_bytes],
        }
        at += tensor.num_bytes
    about = {"format": "pt", "realnet": msgspec.json.encode(manifest).decode()}
    text = json.dumps({"__metadata__": about, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in manifest.tensors:
                end = tensor.offset_bytes + tensor.num_bytes
                file.write(view[tensor.offset_bytes : end])
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return path


def keep(folder: Path, policy: str, number: int) -> list[Path]:
    """Remove all but the newest versions, and what writers left behind; return what stays."""
    found = files_of(folder, policy)
    for old in found[:-number]:
        old.unlink(missing_ok=True)
    for part in _of(folder, policy, r"\.\d+\.tmp"):
        part.unlink(missing_ok=True)
    return found[-number:]


def files_of(folder: Path, policy: str) -> list[Path]:
    """Return the files of a policy's versions, oldest first."""
    return _of(folder, policy, re.escape(_SUFFIX))


def _of(folder: Path, policy: str, ending: str) -> list[Path]:
    """Return what is this policy's, and not of one whose name goes on where this one ends."""
    ours = re.compile(re.escape(policy) + r"-\d{3,}-\d{8,}" + ending)
    return sorted(path for path in folder.glob(f"{policy}-*") if ours.fullmatch(path.name))


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a file; None when it is not one of ours, or not whole."""
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            manifest = msgspec.json.decode(header["__metadata__"]["realnet"], type=Manifest)
            size = os.fstat(file.fileno()).st_size - start
    except (OSError, ValueError, KeyError, TypeError, struct.error, msgspec.DecodeError):
        return None
    return manifest if size == sum(t.num_bytes for t in manifest.tensors) else None


def read(path: Path, manifest: Manifest, out: Buffer) -> None:
    """Read a version into `out` [num_bytes], as the manifest lays it out, and check it.

    Raises WeightsGone when there is no such file, WeightsDamaged when it is not that version.
    """
    target = np.frombuffer(out, dtype=np.uint8)[: manifest.num_bytes]
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            for tensor in manifest.tensors:
                known = header[tensor.name]
                first, last = known["data_offsets"]
                code = _CODES[full_dtype(tensor.dtype)]
                same = (code, list(tensor.shape)) == (known["dtype"], known["shape"])
                if not same or last - first != tensor.num_bytes:
                    raise ValueError(f"{tensor.name} is of another shape or dtype")
                end = tensor.offset_bytes + tensor.num_bytes
                file.seek(start + first)
                if file.readinto(target[tensor.offset_bytes : end].data) != tensor.num_bytes:
                    raise ValueError(f"it ends inside of {tensor.name}")
                target[end : end + -end % ALIGN] = 0
    except FileNotFoundError:
        raise WeightsGone(f"{path} is gone: take the newest version instead") from None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise WeightsDamaged(
            f"{path} is not {manifest.version} ({type(error).__name__}: {error}); it is not used"
        ) from None
    check(manifest, target, f"in {path}")


def _header(file: Any) -> tuple[dict[str, Any], int]:
    (size,) = struct.unpack("<Q", file.read(8))
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes")
    header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header, 8 + size


def _sync_folder(folder: Path) -> None:
    """Have the file's new name on the disk as well."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
