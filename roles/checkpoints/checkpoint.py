"""A checkpoint is one atomic, digested folder: it is whole under its name or it does not exist.

    step_000120.tmp/   written file by file, listed with digests in MANIFEST.json, fsynced
    step_000120/       the same after one rename, fsynced into its parent

At load the newest folder whose files all have their digests is taken; a damaged one is skipped with
a reason. A checkpoint that does not fit on the disk leaves the ones before it alone.

Knows nothing of what the files hold: the caller writes them through a callback, and hands in small
ones as bytes. Called by the trainer, in its compute thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from realnet.errors import CheckpointError

MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"step_(\d{6,})")
_CHUNK = 2**20


class Entry(msgspec.Struct):
    """One file of a checkpoint."""

    size: int
    xxh3_128: str


class Manifest(msgspec.Struct):
    """MANIFEST.json: the step, and every other file of the folder."""

    step: int
    files: dict[str, Entry]


class Found(NamedTuple):
    """A whole checkpoint."""

    step: int
    folder: Path

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.folder / name).read_bytes()


class Checkpoints:
    """The checkpoints of one trainer in one folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.spared: Callable[[list[int]], set[int]] = lambda steps: set()  # these stay as well

    def save(self, step: int, small: Mapping[str, bytes], write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of a step, whole or not at all; return its folder.

        `write(folder)` puts the large files there. Older checkpoints beyond `keep` that are not
        spared go after this one is durable. Raises CheckpointError naming path, sizes, what to do.
        """
        self.begin(step, small, write)
        return self.finish(step)

    def begin(self, step: int, small: Mapping[str, bytes], write: Callable[[Path], None]) -> None:
        """Open the folder that `finish` makes whole; `write` may go on beside what comes between.

        Raises CheckpointError.
        """
        part = self._part(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(part)
            part.mkdir()
            for name, data in small.items():
                (part / name).write_bytes(data)
            write(part)
        except OSError as error:
            raise self._failed(step, part, error) from error

    def finish(
        self, step: int, rest: Callable[[Path], Mapping[str, Entry]] = lambda part: {}
    ) -> Path:
        """Make whole what `begin` opened; return its folder. Any thread may call it.

        `rest(folder)` waits for what is still being written, and may return the entries of files
        that are durable already. Raises CheckpointError.
        """
        final, part = self.folder / f"step_{step:06d}", self._part(step)
        try:
            known = rest(part)
            listed = {
                (name := str(p.relative_to(part))): known.get(name) or _entry(p, sync=True)
                for p in _files(part)
            }
            manifest = msgspec.json.format(msgspec.json.encode(Manifest(step, listed)))
            (part / MANIFEST).write_bytes(manifest)
            _sync(part / MANIFEST)
            for folder in (*(p for p in part.rglob("*") if p.is_dir()), part):
                _sync(folder)
            _remove(final)  # the same step, saved before
            part.rename(final)
            _sync(self.folder)
        except OSError as error:
            raise self._failed(step, part, error) from error
        self._prune()
        return final

    def newest(self, notice: Callable[[str], None]) -> Found | None:
        """Return the newest whole checkpoint; `notice` hears of every damaged one passed over.

        Raises CheckpointError when there are checkpoints and none is whole.
        """
        for rest in self.folder.glob("step_*.tmp"):
            _remove(rest)
        reasons: dict[Path, str] = {}
        for step, folder in reversed(self.all()):
            reason = _damage(folder, step)
            if not reason:
                for damaged in reasons:  # out of the way of what is saved next, kept to look at
                    _remove(damaged.with_suffix(".damaged"))
                    damaged.rename(damaged.with_suffix(".damaged"))
                return Found(step, folder)
            reasons[folder] = reason
            notice(f"checkpoint {folder} is damaged: {reason}; looking for the one before it")
        if reasons:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(reasons.values())}): start a "
                "new run, or bring the folder back from a copy"
            )
        return None

    def at(self, step: int) -> Found:
        """Return the checkpoint of a step, proved to be whole. Raises CheckpointError."""
        known = dict(self.all())
        if step not in known:
            steps = ", ".join(map(str, known)) or "none"
            raise CheckpointError(
                f"{self.folder} has no checkpoint of step {step}. Steps there: {steps}"
            )
        if reason := _damage(known[step], step):
            raise CheckpointError(f"checkpoint {known[step]} is damaged: {reason}")
        return Found(step, known[step])

    def all(self) -> list[tuple[int, Path]]:
        """Return (step, folder) of every finished checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
        return sorted(found)

    def _part(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}.tmp"

    def _prune(self) -> None:
        with contextlib.suppress(OSError):  # what cannot be removed now goes the next time
            known = self.all()
            spared = self.spared([step for step, _ in known])
            for step, folder in known[: -self.keep]:
                if step not in spared:
                    _remove(folder)

    def _failed(self, step: int, part: Path, error: OSError) -> CheckpointError:
        need = free = 0
        with contextlib.suppress(OSError):
            need = sum(p.stat().st_size for p in _files(part))
            free = shutil.disk_usage(self.folder).free
            _remove(part)
        before = self.all()
        kept = f"step {before[-1][0]} is kept" if before else "there is none before it"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {part}: "
            f"{error.strerror or error} (at least {need / 1e6:.1f} MB needed, "
            f"{free / 1e6:.1f} MB free; {kept}): free some space"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _entry(path: Path, *, sync: bool = False) -> Entry:
    seen = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            seen.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return Entry(size, seen.hexdigest())


def _damage(folder: Path, step: int) -> str:
    """Return what is wrong with a checkpoint, or ''."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if manifest.step != step:
            return f"{MANIFEST} is of step {manifest.step}"
        for name, entry in manifest.files.items():
            path = folder / name
            if path.stat().st_size != entry.size:
                return f"{name} has {path.stat().st_size} bytes, not {entry.size}"
            if _entry(path) != entry:
                return f"the digest of {name} differs"
        extra = {str(p.relative_to(folder)) for p in _files(folder)}
        extra -= {MANIFEST, *manifest.files}
        if extra:
            return f"{MANIFEST} does not list {sorted(extra)[0]}"
    except (OSError, ValueError) as error:
        return f"{folder.name} does not read ({error})"
    return ""


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that, killed half way, no half of it has a checkpoint's name."""
    if not folder.exists():
        return
    if folder.suffix != ".tmp":
        doomed = folder.with_name(f"{folder.name}.old.tmp")
        if doomed.exists():
            shutil.rmtree(doomed)
        folder.rename(doomed)
        folder = doomed
    shutil.rmtree(folder)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
