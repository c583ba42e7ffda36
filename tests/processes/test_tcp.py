"""The network of test_network.py over tcp with keys: attacked, cut, killed; in real processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from attack import batch
from real_run import RealRun, goes_on, listening, ready
from small_net import FLOOD

TCP = ("--set", 'run.transport="tcp"')


@pytest.fixture
def sockets() -> Iterator[Callable[[], zmq.Socket[bytes]]]:
    context = zmq.Context()
    made = []

    def make() -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.PUSH))
        return made[-1]

    yield make
    for socket in made:
        socket.close(linger=0)
    context.term()


def test_a_run_over_tcp_lets_nobody_in(
    start: Callable[..., RealRun],
    topology: Path,
    sockets: Callable[[], zmq.Socket[bytes]],
) -> None:
    run = start(topology, *TCP)
    run.until(lambda: ready(run))
    folder = run.folder / "keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    where = listening(run)
    assert set(where) == {"head/0", "source/0", "worker/0", "worker/1", "helper/0", "sink/0"}
    assert all(len(a) == 4 for a in where.values()), where  # one for each lane, and the door
    assert all(p.startswith("0100007F:") for a in where.values() for p in a), where
    nothing_secret_outside_of_keys(run)

    endpoint = f"tcp://127.0.0.1:{int(where['head/0'][0].partition(':')[2], 16)}"
    secret = (folder / "worker-0.secret").read_bytes()
    head_secret = (folder / "head-0.secret").read_bytes()
    tries = {
        "does not speak as this run does": (b"", b""),
        "its key is none of this run's": (zmq.curve_keypair()[1], b""),
        "says it is from sink/0~1: its key is that of worker/0": (
            secret,
            batch("run (attempt 1)", "sink/0~1", "head/0~0"),
        ),
        "of run 'run (attempt 0)'": (secret, batch("run (attempt 0)", "worker/0~1", "head/0~0")),
    }
    for told, (key, payload) in tries.items():
        socket = sockets()
        if key:
            socket.set(zmq.CURVE_SERVERKEY, zmq.curve_public(head_secret))
            socket.set(zmq.CURVE_SECRETKEY, key)
            socket.set(zmq.CURVE_PUBLICKEY, zmq.curve_public(key))
        socket.connect(endpoint)
        socket.send(payload or b"hello")
        run.until(lambda told=told: any(told in e for e in run.events()), 10)
        assert sum(told in e for e in run.events()) == 1
    goes_on(run)
    assert not any("died" in e or "silent" in e for e in run.events())
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert not run.members()
    assert not folder.exists()


def nothing_secret_outside_of_keys(run: RealRun) -> None:
    """Secrets are in no argument, no environment and no file of the run but their own."""
    secrets = [p.read_bytes() for p in (run.folder / "keys").glob("*.secret")]
    assert len(secrets) == 6
    texts = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    texts = {p: t for p, t in texts.items() if p.parent.name != "keys"}
    for pid in (*run.members().values(), run.process.pid):
        for name in ("cmdline", "environ"):
            path = Path(f"/proc/{pid}/{name}")
            texts[path] = path.read_bytes()
        open_files = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
        assert not any(f.endswith(".secret") for f in open_files)
    assert len(texts) > 15
    for path, text in texts.items():
        assert not any(s in text for s in secrets), path


def test_deaths_over_tcp(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology, *TCP, *FLOOD, "--set", 'run.suspect="1s"', "--set", 'run.hung="2s"')
    run.until(lambda: ready(run))
    run.kill("worker/0")
    run.until(lambda: any("worker/0 is started again (restart 1)" in e for e in run.events()))
    run.until(lambda: "worker/0" in run.members())
    stopped = run.kill("worker/1", signal.SIGSTOP)
    run.until(lambda: run.members().get("worker/1", stopped) != stopped)
    goes_on(run)
    assert not any("lost for good" in e or "refused" in e for e in run.events())
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130


def test_connections_that_are_cut_are_made_again(
    start: Callable[..., RealRun], topology: Path
) -> None:
    run = start(topology, *TCP, *FLOOD)
    run.until(lambda: ready(run))
    for _ in range(5):
        for address in [a for all_of in listening(run).values() for a in all_of]:
            port = int(address.partition(":")[2], 16)
            cut = subprocess.run(
                ["ss", "-K", "dst", "127.0.0.1", "dport", "=", str(port)],
                capture_output=True,
                check=False,
            )
            if cut.returncode or cut.stdout.count(b"\n") < 2:
                pytest.skip("this kernel does not let us cut connections (ss -K)")
        goes_on(run)
    assert any("was lost and is back; nothing is lost" in e for e in run.events())
    assert not any("lost for good" in e or "died" in e for e in run.events())
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130


def test_without_keys_there_is_a_warning(start: Callable[..., RealRun], topology: Path) -> None:
    run = start(topology, *TCP, "--set", 'run.security="none"')
    run.until(lambda: ready(run))
    assert sum("WARNING: security" in e for e in run.events()) == 1
    assert not (run.folder / "keys").exists()
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130


def test_a_keys_folder_that_others_can_read_is_not_used(
    start: Callable[..., RealRun], topology: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "keys").mkdir(parents=True, mode=0o755)
    (tmp_path / "run" / "keys").chmod(0o755)
    run = start(topology, *TCP)
    assert run.wait() != 0
    assert "open to others (mode 0755)" in run.output()
    assert "Traceback" not in run.output()
