"""Broadcasts over gloo between real processes: whole, damaged, a sender killed, a member frozen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from realnet.roles.weights.collective import CollectiveFailed, Group, Store

MEMBER = Path(__file__).parent.parent / "gloo_member.py"
Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def begin(*told: object) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", str(MEMBER), *map(str, told)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def group(start: Start, folder: Path, epochs: int, send: str, *receive: str) -> list[str]:
    """Run a sender and receivers, each with what it does wrong; return what receivers said.

    One that stops is left standing.
    """
    place, size = folder / "place", 1 + len(receive)
    sender = start("send", place, size, epochs, send)
    while not place.exists():
        assert sender.poll() is None
        time.sleep(0.05)
    members = [
        start("receive", place.read_text(), rank, size, epochs, what)
        for rank, what in enumerate(receive, 1)
    ]
    said = []
    for member, what in zip(members, receive, strict=True):
        if what == "stop":
            continue
        said.append(member.communicate()[0])
    if send != "die" and "stop" not in receive:
        assert sender.wait() == 0
    return said


def test_corrupt_bytes_are_found_by_every_receiver_and_the_next_version_comes(
    start: Start, tmp_path: Path
) -> None:
    said = group(start, tmp_path, 2, "corrupt", "well", "well")
    for text in said:
        lines = text.splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            *("got 2", "damaged 3", "got 4", "got 5")
        ]
        assert "digest differs in bucket" in lines[1]


def test_a_sender_killed_in_mid_bucket_fails_every_receiver(start: Start, tmp_path: Path) -> None:
    said = group(start, tmp_path, 1, "die", "well", "well")
    for text in said:
        first, second = text.splitlines()
        assert first == "got 2"
        assert second.startswith("failed CollectiveFailed: p v0.3 in epoch 1: ")


def test_one_that_stands_still_fails_the_others_and_holds_nobody_for_ever(
    start: Start, tmp_path: Path
) -> None:
    said = group(start, tmp_path, 1, "well", "well", "stop")
    assert said[0].startswith("got 2\nfailed CollectiveFailed: p v0.3 in epoch 1: ")


def test_nccl_without_a_gpu_and_a_group_that_nobody_joins_are_refused() -> None:
    store = Store("127.0.0.1")
    with pytest.raises(CollectiveFailed, match="needs a GPU in every member"):
        Group("nccl", store.store, 1, 0, 2, timeout_s=1.0)
    with pytest.raises(CollectiveFailed, match="epoch 3 did not come together"):
        Group("gloo", store.store, 3, 0, 2, timeout_s=1.0)


def test_the_store_listens_on_its_own_address_only() -> None:
    store = Store("127.0.0.1")
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    lines += Path("/proc/net/tcp6").read_text(encoding="ascii").splitlines()[1:]
    listening = [w[1] for w in map(str.split, lines) if w[3] == "0A"]
    mine = [a for a in listening if int(a.rpartition(":")[2], 16) == store.port]
    assert mine == [f"0100007F:{store.port:04X}"]
