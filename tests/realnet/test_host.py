"""What the system offers, with and without Linux's own; nobody else's children are ours."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from small_net import topology

from realnet import RealnetError, host
from realnet.arena import Arenas
from realnet.launch.local import LocalLauncher, _Life, _log
from realnet.testing.running import plan_of

# A parent that starts a child of ours, waits for its word and dies.
CHILD = """
import os, sys, time
from realnet import host
host.die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], str(os.getpid())],
    stdout=subprocess.PIPE, start_new_session=True,
)
print(child.stdout.readline().decode(), flush=True)
sys.stdin.readline()
os._exit(0)
"""


@pytest.fixture(params=["", "1"], ids=["linux", "plain host"])
def plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv(host.PLAIN, request.param)
    return bool(request.param)


def test_features_can_be_switched_off(plain: bool) -> None:
    offered = [host.has_prctl(), host.has_pidfd(), host.has_memfd(), host.has_proc()]
    assert offered == [not plain] * 4


async def test_the_end_of_a_process_is_seen_before_it_is_reaped(plain: bool) -> None:
    process = subprocess.Popen(["sh", "-c", "exit 7"])
    ended = asyncio.Event()
    host.when_it_ends(process, ended.set)
    await asyncio.wait_for(ended.wait(), 20)
    assert process.wait() == 7


def test_shared_memory_is_one_for_all_and_goes_with_its_owner(plain: bool) -> None:
    arenas = Arenas()
    path = Path(arenas.open("weights", 1 << 20))
    assert arenas.open("weights", 1 << 20) == str(path)
    with pytest.raises(RealnetError, match="was asked for with 5"):
        arenas.open("weights", 5)
    with path.open("r+b") as file:
        file.write(b"here")
    code = f"print(open({str(path)!r}, 'rb').read(4))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert seen.stdout == "b'here'\n"
    assert path.stat().st_size == 1 << 20
    if plain:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    arenas.close()
    assert not path.exists()


def test_a_process_ends_with_its_parent(plain: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    try:
        assert not select.select([child], [], [], 0)[0]
        parent.communicate(b"\n", timeout=20)
        assert select.select([child], [], [], 20)[0], "it outlives its parent"
    finally:
        os.close(child)


def test_only_what_the_launcher_started_is_killed_and_reaped(tmp_path: Path) -> None:
    plan = plan_of(topology(tmp_path, num=0), tmp_path)
    launcher = LocalLauncher(plan, tmp_path, tmp_path, "ipc://nowhere", 1, False)
    theirs = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    ended = subprocess.Popen(["sh", "-c", "exit 7"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    marked = {**os.environ, "REALNET_MARK": "us:worker/0~1"}
    words = ["sh", "-c", "echo up; exec sleep 1000"]
    ours = subprocess.Popen(
        words, start_new_session=True, env=marked, stdout=subprocess.PIPE, text=True
    )
    assert ours.stdout is not None
    try:
        ours.stdout.readline()  # Popen returns before the environment of the program can be read
        launcher._end_orphans_of(_Life(ended, "us:worker/0~1", tmp_path / "log", -1))
        if launcher._orphans:
            os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)
        assert launcher.alive() == []
        assert not Path(f"/proc/{ours.pid}").exists()
        assert theirs.poll() is None
        assert ended.wait() == 7  # its status was left to whoever started it
    finally:
        ours.kill()
        ours.communicate()
        theirs.kill()
        theirs.wait()
        launcher.close()


async def test_a_process_that_finds_no_room_has_died_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = LocalLauncher(
        plan_of(topology(tmp_path), tmp_path), tmp_path, tmp_path, "", 1, False
    )

    def no_more() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    told: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(os, "pipe", no_more)
    pid = launcher.spawn("worker/0", 1, lambda how, lost=False, **_: told.set_result((how, lost)))
    monkeypatch.undo()
    how, lost = await told
    launcher.close()
    assert (pid, lost) == (0, True)
    assert how.startswith("it could not be started: Too many open files: this process may have ")


def test_a_process_goes_without_a_log_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _log(Path("/dev/full"), "--- worker/0, life 1\n") as log:  # no room for a line
        assert log.name == "/dev/full"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)  # no room for a file
    with _log(tmp_path / "worker-0.log", "--- worker/0, life 1\n") as log:
        assert log.name == os.devnull
    monkeypatch.undo()
    with pytest.raises(NotADirectoryError):
        _log(Path("/dev/full/worker-0.log"), "")


def test_memory_counts_what_was_taken_here_and_below(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.memory_bytes()
    kept = b"x" * (64 << 20)
    assert host.memory_bytes() - before > 60 << 20
    del kept
    before = host.memory_bytes()
    code = "kept = b'x' * (64 << 20); print('taken', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert host.memory_bytes() - before > 60 << 20
    child.communicate(b"\n")
    monkeypatch.setenv(host.PLAIN, "1")
    assert host.memory_bytes() == 0, "not known there"


FAULTS = """
import resource, sys
from realnet import host
if sys.argv[1] == "keep":
    assert host.keep_freed_memory()
def blocks():
    for kept in [[bytearray(b"x") * (2**20 + 2**19) for _ in range(6)] for _ in range(4)]:
        kept.clear()
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_the_memory_of_large_messages_is_used_again() -> None:
    env = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}

    def faults(how: str, **more: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        said = subprocess.run(command, env=env | more, capture_output=True, text=True, check=True)
        return int(said.stdout)

    # Of 36 MB at a time, ten times: 92,160 pages if none is used again.
    assert faults("keep") < 2_000
    assert faults("leave") > 20_000


def test_an_allocator_that_was_told_its_settings_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert not host.keep_freed_memory()
