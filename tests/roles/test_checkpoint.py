"""A checkpoint is whole or not there, at whatever instant its writer dies."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import CheckpointError
from realnet.roles.checkpoints.checkpoint import Checkpoints


class Killed(BaseException):
    """The process dies here."""


def save(store: Checkpoints, step: int) -> None:
    def write(folder: Path) -> None:
        (folder / "learner").mkdir()
        (folder / "learner" / "weights.bin").write_bytes(bytes([step]) * 3000)

    store.save(step, {"meta.json": b"%d" % step}, write)


def newest(folder: Path, keep: int = 2) -> tuple[int, list[str]]:
    notices: list[str] = []
    found = Checkpoints(folder, keep=keep).newest(notices.append)
    if found is None:
        return -1, notices
    assert found.read("meta.json") == b"%d" % found.step
    assert found.read("learner/weights.bin") == bytes([found.step]) * 3000
    return found.step, notices


def test_the_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "c", keep=2)
    assert store.newest(lambda text: None) is None
    for step in (5, 10, 15):
        save(store, step)
    assert [step for step, _ in store.all()] == [10, 15]
    assert newest(tmp_path / "c") == (15, [])
    save(store, 15)
    assert newest(tmp_path / "c") == (15, [])


OPERATIONS = [(os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "write_bytes"),
              (shutil, "rmtree"), (os, "open")]  # fmt: skip


def interrupt(
    monkeypatch: pytest.MonkeyPatch, at: int, what: Callable[[], BaseException]
) -> Callable[[], bool]:
    """Raise at the n-th operation on files; tell whether that one came."""
    count = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                raise what()
            return real(*args, **kwargs)

        return wrapped

    for owner, name in OPERATIONS:
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    return lambda: count >= at


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_at_any_operation_one_whole_checkpoint_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    at, reached = 0, True
    seen = set()
    while reached:
        at += 1
        folder = tmp_path / str(at)
        store = Checkpoints(folder, keep=keep)
        for step in (1, 2):
            save(store, step)
        with monkeypatch.context() as patch:
            came = interrupt(patch, at, Killed)
            with contextlib.suppress(Killed):
                save(store, 3)
            reached = came()
        step, notices = newest(folder, keep)
        assert step in (2, 3)
        assert notices == []
        assert not list(folder.glob("*.tmp"))
        save(store, 4)  # and the next one works
        assert newest(folder, keep)[0] == 4
        seen.add(step)
    assert seen == {2, 3}
    assert at > 8


def test_a_full_disk_at_any_operation_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, at, reached = 0, 0, True
    while reached:
        at += 1
        folder = tmp_path / str(at)
        store = Checkpoints(folder, keep=2)
        save(store, 2)
        with monkeypatch.context() as patch:
            came = interrupt(patch, at, lambda: OSError(errno.ENOSPC, "No space left on device"))
            try:
                save(store, 3)
            except CheckpointError as error:
                failures += 1
                text = str(error)
                assert "step 3 could not be written" in text
                assert str(folder) in text
                assert "MB free; step 2 is kept" in text or "step 3 is kept" in text
            reached = came()
        assert newest(folder)[0] in (2, 3)
    assert failures > 6


@pytest.mark.parametrize("seed", range(25))
def test_a_flipped_byte_anywhere_is_found_and_the_one_before_used(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    store = Checkpoints(tmp_path, keep=2)
    save(store, 1)
    save(store, 2)
    path = tmp_path / "step_000002" / rng.choice(["meta.json", "learner/weights.bin"])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    step, notices = newest(tmp_path)
    assert step == 1
    assert "step_000002 is damaged: the digest of" in notices[0]
    assert (tmp_path / "step_000002.damaged").is_dir()
    assert newest(tmp_path) == (1, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "meta.json").unlink(), "does not read"),
        (lambda f: (f / "MANIFEST.json").unlink(), "does not read"),
        (lambda f: (f / "MANIFEST.json").write_bytes(b"{"), "does not read"),
        (lambda f: (f / "meta.json").write_bytes(b"22"), "has 2 bytes, not 1"),
        (lambda f: (f / "extra").write_bytes(b""), "does not list extra"),
        (
            lambda f: (f / "MANIFEST.json").write_bytes(
                (f / "MANIFEST.json").read_bytes().replace(b'"step": 2', b'"step": 3')
            ),
            "is of step 3",
        ),
    ],
)
def test_other_damage_has_a_reason_too(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    store = Checkpoints(tmp_path, keep=2)
    save(store, 1)
    save(store, 2)
    change(tmp_path / "step_000002")
    step, notices = newest(tmp_path)
    assert step == 1
    assert reason in notices[0]


def test_with_no_whole_checkpoint_left_the_run_does_not_start_over_in_silence(
    tmp_path: Path,
) -> None:
    store = Checkpoints(tmp_path, keep=2)
    save(store, 1)
    (tmp_path / "step_000001" / "meta.json").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
            store.newest(lambda text: None)
