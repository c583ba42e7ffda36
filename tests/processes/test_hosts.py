"""Runs over several hosts, as agents on this machine: the path that SLURM takes, without SLURM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT
from real_run import RealRun, goes_on, ready
from small_net import FLOOD

pytestmark = pytest.mark.timeout(300)
Start = Callable[..., RealRun]
QUICK = ("--set", 'run.host_lost="3s"', "--set", 'run.host_lease="6s"')


def agents(run: RealRun) -> dict[str, int]:
    """Host -> pid of the agents of a run."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "realnet.launch.agent" in words and str(run.folder.resolve()) in words:
            found[words[words.index("--host") + 1]] = int(entry.name)
    return found


def slots_of(run: RealRun, agent: int) -> set[str]:
    """The slots whose processes this agent has started."""
    started = set(Path(f"/proc/{agent}/task/{agent}/children").read_text().split())
    return {slot for slot, pid in run.members().items() if str(pid) in started}


def test_slots_of_a_lost_host_go_on_elsewhere(start: Start, topology: Path) -> None:
    run = start(topology, "--hosts", "3", *QUICK, *FLOOD)
    run.until(lambda: ready(run))
    there = agents(run)
    assert sorted(there) == ["local0", "local1", "local2"]
    lives = {host: slots_of(run, pid) for host, pid in there.items()}
    assert all(lives.values()), lives  # spread over all of them
    assert not lives["local0"] & lives["local1"]
    assert not any("refused a connection" in e for e in run.events())
    workers = {host for host, slots in lives.items() for s in slots if s.startswith("worker")}
    assert len(workers) == 2, lives
    gone = sorted(workers)[0]
    os.kill(there[gone], signal.SIGKILL)
    killed_s = time.monotonic()
    run.until(lambda: any(f"host {gone} is lost" in e for e in run.events()))
    noticed_s = time.monotonic() - killed_s
    run.until(lambda: lives[gone] <= set(run.members()))  # they live on the others
    goes_on(run)
    rest = [slots_of(run, pid) for host, pid in agents(run).items()]
    assert set().union(*rest) == set().union(*lives.values())
    print(f"noticed after {noticed_s:.1f} s")
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait() == 75
    assert not agents(run)


def test_without_the_head_everything_ends(start: Start, topology: Path) -> None:
    run = start(topology, "--hosts", "2", *QUICK)
    run.until(lambda: ready(run))
    # Agents of a local fleet die with the head; those of SLURM cannot, and have their lease. A head
    # that stands still is as silent as one that is gone.
    os.kill(run.process.pid, signal.SIGSTOP)
    end_s = time.monotonic() + 90
    while (agents(run) or run.members()) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not agents(run)
    assert not run.members()
    logs = run.folder / "attempts" / "1" / "logs"
    for host in ("local0", "local1"):
        text = (logs / f"agent-{host}.log").read_text()
        assert "ended with 75: the head has not been heard" in text, text
    os.kill(run.process.pid, signal.SIGKILL)


def test_a_host_that_was_given_up_is_not_let_in_again(start: Start, topology: Path) -> None:
    run = start(topology, "--hosts", "2", "--spares", "1", *QUICK, "--set", 'run.host_lease="30s"')
    run.until(lambda: ready(run))
    there = agents(run)
    frozen = there["local1"]
    slots = {run.members()[s] for s in slots_of(run, frozen)}
    assert slots
    assert not slots_of(run, there["local2"])  # the spare has nothing to do yet
    for pid in (frozen, *slots):
        os.kill(pid, signal.SIGSTOP)
    run.until(lambda: any("host local1 is lost" in e for e in run.events()))
    run.until(lambda: bool(slots_of(run, there["local2"])))
    goes_on(run)
    for pid in (frozen, *slots):
        with contextlib.suppress(ProcessLookupError):  # its agent, awake again, was faster
            os.kill(pid, signal.SIGCONT)
    run.until(lambda: "local1" not in agents(run))  # long before its lease ends
    log = (run.folder / "attempts" / "1" / "logs" / "agent-local1.log").read_text()
    assert "ended with 76" in log, log
    assert not slots & set(run.members().values())
    goes_on(run)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.wait() == 75


STARTER = """
import subprocess
from realnet import Actor, Config

class Starter(Actor[Config]):
    async def run(self) -> None:
        told = subprocess.run(["env"], capture_output=True, text=True).stdout
        names = {line.partition("=")[0] for line in told.splitlines()}
        self.event(f"a child of a role is told of {sorted(n for n in names if n in WHERE)}")
        self.finish("done")

WHERE = ("REALNET_ADDRESS", "REALNET_NEARBY", "REALNET_KEY_FD", "REALNET_WORDS_FD")
"""


def test_what_a_role_starts_is_not_told_where_the_process_of_the_role_listens(
    start: Start, tmp_path: Path
) -> None:
    """A run that a role begins would listen in the folder of the first one's sockets."""
    (tmp_path / "starter.py").write_text(STARTER)
    topology = tmp_path / "starter.toml"
    topology.write_text('title = "s"\n[roles.starter]\nkind = "starter.py:Starter"\n')
    run = start(topology, "--hosts", "1")
    assert run.wait() == 0, run.output()
    assert "a child of a role is told of []" in run.events()


def test_bin_local_takes_the_same_path_and_goes_on(tmp_path: Path) -> None:
    def called(script: str, *words: str) -> str:
        own = tmp_path / "my bin" / script  # a link from where the user has commands
        own.parent.mkdir(exist_ok=True)
        own.symlink_to(ROOT / "bin" / script)
        done = subprocess.run(
            [str(own), *words, "--runs", str(tmp_path / "the runs")],
            capture_output=True,
            text=True,
            env={**os.environ, "REALNET_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    words = str(ROOT / "topologies" / "words.toml")
    said = called("local", words, "--hosts", "2", "--name", "w")
    assert "2 hosts have come" in said
    assert "done: 34 lines" in said
    again = called("resume", words, "--name", "w")
    assert "attempt 2" in again
    assert "done: 34 lines" in again


def elastic_agent(folder: Path, number: int, host: str) -> subprocess.Popen[bytes]:
    """An agent that comes for a worker, as an element of an array under SLURM would."""
    with (folder / f"elastic-{number}.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "realnet.launch.agent", str(folder)),
                *("--number", str(number), "--host", host, "--elastic", "worker"),
                *("--cpus", "1", "--parent", str(os.getpid())),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def test_a_host_for_elastic_members_may_come_before_the_others(
    start: Start, topology: Path, tmp_path: Path
) -> None:
    """As when a run begins another life: those of its arrays are there already, and wait for it."""
    text = topology.read_text().replace("[roles.worker]\n", "[roles.worker]\nmax = 3\n", 1)
    topology.write_text(text)
    (tmp_path / "run" / "attempts").mkdir(parents=True)
    early = elastic_agent(tmp_path / "run", 1, "early")
    try:
        run = start(topology, "--hosts", "1")
        run.until(lambda: ready(run))
        run.until(lambda: slots_of(run, early.pid) == {"worker/2"})
        assert run.events()[0].startswith("1 hosts have come"), run.events()
        goes_on(run)
        os.kill(run.process.pid, signal.SIGTERM)
        assert run.wait() == 75
        assert early.wait(60) == 0
    finally:
        early.kill()
        early.wait()


def test_two_shares_of_one_machine_are_two_hosts_and_one_without_work_is_given_back(
    start: Start, topology: Path
) -> None:
    text = topology.read_text().replace("[roles.worker]\n", "[roles.worker]\nmax = 4\n", 1)
    topology.write_text(text.replace('"50 per 1min"', '{ times = 0, then = "drop" }', 1))
    run = start(topology, "--hosts", "1", "--set", 'run.host_idle="1s"')
    run.until(lambda: ready(run))
    here = {n: elastic_agent(run.folder, n, "shared") for n in (1, 2)}
    try:
        run.until(lambda: {"worker/2", "worker/3"} <= set(run.members()))
        by_pid = {n: slots_of(run, agent.pid) for n, agent in here.items()}
        assert sorted(map(len, by_pid.values())) == [1, 1], by_pid
        goes_on(run)
        assert not any("is lost" in e for e in run.events()), run.events()
        gone = next(n for n, slots in by_pid.items() if slots == {"worker/3"})
        run.kill("worker/3")
        run.until(lambda: here[gone].poll() is not None)
        assert here[gone].returncode == 93
        run.until(lambda: any("given back: it has had nothing to do" in e for e in run.events()))
        assert here[3 - gone].poll() is None
        goes_on(run)
        os.kill(run.process.pid, signal.SIGTERM)
        assert run.wait() == 75
        assert here[3 - gone].wait(60) == 0
    finally:
        for agent in here.values():
            agent.kill()
            agent.wait()


def test_what_has_no_host_left_ends_the_run_to_be_tried_again(start: Start, topology: Path) -> None:
    """Where the topology does not say that fewer will do."""
    text = topology.read_text().replace(
        "[roles.worker]\n", '[roles.worker]\npool = "rollouts"\n', 1
    )
    topology.write_text(text + "\n[pools.main]\nnodes = 1\n[pools.rollouts]\nnodes = 1\n")
    run = start(topology, "--hosts", "2", *QUICK, *FLOOD)
    run.until(lambda: ready(run))
    there = agents(run)
    (gone,) = [
        h for h, pid in there.items() if any(s.startswith("worker") for s in slots_of(run, pid))
    ]
    os.kill(there[gone], signal.SIGKILL)
    assert run.wait() == 75
    assert f"host {gone} is lost" in run.output()
    assert "there is no room for worker/" in run.output(), run.output()
    assert not agents(run)
    assert not run.members()


def test_a_run_that_fits_nowhere_says_what_there_is(start: Start, topology: Path) -> None:
    run = start(topology, "--hosts", "2", "--set", "roles.worker.gpus=3")
    assert run.wait() == 75
    assert "there is no room for worker/0 (1 cores, 3 GPUs)" in run.output(), run.output()
    assert "local0: ? cores, 0 GPUs" in run.output()
    assert not agents(run)
