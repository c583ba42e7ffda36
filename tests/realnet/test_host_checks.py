"""What an agent finds out about its own host before a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from realnet import host
from realnet.launch import checks
from realnet.launch.checks import code_digest, look_at_this_host
from realnet.launch.rendezvous import HeadFile, canary_path, write_head


@pytest.fixture
def head(tmp_path: Path) -> HeadFile:
    """Where a head is that has been written down, which needs no GPUs."""
    where = ("run", 1, "tcp://a:1", "nonce", "plan", False, "a", 1, 0.0)
    written = HeadFile(*where, code=code_digest())
    canary_path(tmp_path, 1).parent.mkdir(parents=True)
    write_head(tmp_path, written)
    return written


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[[HeadFile], dict[str, str]]:
    """What is not well here, and why."""
    return lambda head: {c.what: c.text for c in look_at_this_host(tmp_path, head) if not c.well}


Wrong = Callable[[HeadFile], dict[str, str]]


def test_an_ordinary_host_is_fit(head: HeadFile, wrong: Wrong) -> None:
    assert wrong(head) == {}


def test_a_folder_that_is_another_one_here_is_not_shared(
    head: HeadFile, wrong: Wrong, tmp_path: Path
) -> None:
    canary = canary_path(tmp_path, 1)
    canary.write_text("of another run")
    assert wrong(head) == {"shared folder": f"{canary} is another file here"}
    canary.unlink()
    assert wrong(head) == {"shared folder": f"{canary}: No such file or directory"}


def test_other_code_than_the_heads_is_named(head: HeadFile, wrong: Wrong) -> None:
    other = msgspec.structs.replace(head, code="another")
    assert "than the head (another): install the same version" in wrong(other)["code"]


def test_too_few_files_and_too_little_shared_memory_are_named(
    head: HeadFile, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "allow_files", lambda: 256)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert wrong(head) == {
        "ulimit -n": "256 open files; 1024 are needed",
        "/dev/shm": "1 MiB free; 64 are needed",
    }


@pytest.mark.parametrize("name", ["TMPDIR", "REALNET_SCRATCH"])
def test_a_scratch_folder_that_is_not_there_is_named(
    head: HeadFile, wrong: Wrong, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "none"))
    assert wrong(head) == {"scratch": f"{tmp_path}/none is no folder that can be written here"}
    (tmp_path / "none").mkdir()
    assert wrong(head) == {}


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ('echo "0, 0"; echo "1, [N/A]"', ""),
        ('echo "0, 0"; echo "1, 3"', "uncorrected memory errors: 1, 3"),
        ("echo Unable to determine the device handle; exit 9", "Unable to determine the device"),
        ("exec sleep 60", "nvidia-smi does not answer within 0.2 s"),
    ],
)
def test_gpus_are_asked_for_their_health(
    head: HeadFile,
    wrong: Wrong,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    program: str,
    told: str,
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f"#!/bin/sh\n{program}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.setattr(checks, "GPU_S", 0.2 if "sleep" in program else 60.0)
    assert wrong(head) == {}  # nobody needs one
    found = wrong(msgspec.structs.replace(head, gpus=1))
    assert found.keys() == ({"GPU"} if told else set())
    assert found.get("GPU", "").startswith(told)
