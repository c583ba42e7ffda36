"""A network that is not RL, in real processes: deaths, hangs, signals, orphans, messages."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from real_run import RealRun, ready
from small_net import FLOOD


def test_kill_hang_and_interrupt(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology, *FLOOD, "--set", 'run.suspect="1s"', "--set", 'run.hung="2s"')
    run.until(lambda: ready(run))
    sockets = Path((run.folder / ".sockets").read_text())
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    run.kill("worker/0")
    run.until(lambda: any("worker/0 died: killed by SIGKILL" in e for e in run.events()))
    run.until(lambda: any("worker/0 is started again (restart 1)" in e for e in run.events()))
    stopped = run.kill("worker/1", signal.SIGSTOP)
    run.until(lambda: any("worker/1 has not answered for" in e for e in run.events()))
    run.until(lambda: run.members().get("worker/1", stopped) != stopped)
    run.until(lambda: sum("squares since" in e for e in run.events()) >= 1)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert "ended: asked to stop (SIGINT)" in run.output()
    assert "--resume" in run.output()
    assert not run.members()
    assert not sockets.exists()


def test_when_the_head_is_killed_all_go(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology)
    run.until(lambda: ready(run))
    assert len(run.members()) == 5
    run.process.kill()
    run.process.wait()
    run.end()
    assert not run.members()


def test_a_role_that_keeps_failing_ends_the_run_by_name(
    start: Callable[..., RealRun], topology: Path
) -> None:
    run = start(
        topology, "--set", "roles.sink.fail_at=5", "--set", 'roles.sink.restart="1 per 1min"'
    )
    assert run.wait() == 1
    text = run.output()
    assert "sink/0 failed: RuntimeError: the sink is full" in text
    assert "ended: sink/0 cannot go on" in text
    assert "logs:" in text
    log = (run.folder / "attempts" / "latest" / "logs" / "sink-0.log").read_text()
    assert "RuntimeError: the sink is full" in log


def test_one_run_in_a_folder_at_a_time(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology)
    run.until(lambda: ready(run))
    second = start(topology, "--resume")
    assert second.wait() == 1
    assert "is in use by a run that is going on" in second.output()
    assert run.process.poll() is None
    third = start(topology)
    assert third.wait() == 2
    assert "resume it with --resume" in third.output()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(30) == 75
    assert "it may be tried again as it is: go on with: realnet run" in run.output()


def test_two_runs_side_by_side_do_not_meet(tmp_path: Path) -> None:
    run = [sys.executable, "-P", "-m", "realnet.cli", "run", "words", "--runs", str(tmp_path)]
    tcp = ["--set", 'run.transport="tcp"']
    both = [subprocess.Popen([*run, *tcp], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=50)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {path.name for path in tmp_path.iterdir()} == {"words", "words-2"}
    for text in said:
        assert "done: 34 lines, 134 words" in text
        assert "refused" not in text
    for folder in tmp_path.iterdir():
        assert json.loads((folder / "words.json").read_text())["lines"] == 34


def test_nothing_listens_on_a_network(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology)
    run.until(lambda: ready(run))
    ours = {os.path.realpath(f"/proc/{p}/ns/net") for p in run.members().values()}
    assert ours
    inodes = set()
    for pid in (*run.members().values(), run.process.pid):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            listening.add(line.split()[9])
    assert not inodes & listening


def test_a_folder_called_realnet_is_not_taken_for_realnet(
    start: Callable[..., RealRun], topology: Path, tmp_path: Path
) -> None:
    decoy = tmp_path / "elsewhere" / "realnet"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('the wrong realnet')")
    run = start(topology, cwd=decoy.parent)
    run.until(lambda: ready(run))
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
