"""A SLURM of three nodes for the tests in this folder. `make test-slurm` runs them: they need root,
apt, and some minutes. Everything else in this repository is tested without."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_jobs import NODES, RUNS, Cluster, SlurmRun
from small_net import topology as small_net

WANTED = "REALNET_TEST_SLURM"
PROBE = ("sh", "-c", "mount -t proc proc /proc && mount -t tmpfs tmpfs /dev/shm")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
collect_ignore_glob = [] if os.environ.get(WANTED) else ["test_*.py"]


skipped: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so loudly when there was no cluster to test with."""
    for why in skipped[:1]:
        terminalreporter.section("NO SLURM TEST WAS RUN", red=True, bold=True)
        terminalreporter.line(why)


def missing() -> str:
    """Say why there cannot be a cluster here; install what is missing where that is possible."""
    if os.geteuid() != 0:
        return "not root: namespaces and slurmd need it"
    try:
        done = subprocess.run(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", *PROBE],
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return f"no namespaces here: {error}"
    if done.returncode:
        return f"no namespaces here: {done.stderr.strip()}"
    if all(shutil.which(p) for p in ("slurmctld", "slurmd", "sbatch", "munged", "ip")):
        return no_network()
    if shutil.which("apt-get") is None:
        return "no apt-get here to install Debian's SLURM with"
    quiet = Path("/usr/sbin/policy-rc.d")  # keeps the packages from starting their own daemons
    made = not quiet.exists()
    if made:
        quiet.write_text("#!/bin/sh\nexit 101\n")
        quiet.chmod(0o755)
    try:
        for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(
                ["apt-get", "-q", *words],
                capture_output=True,
                text=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
            if done.returncode:
                return f"apt-get {words[0]} failed: {(done.stderr or done.stdout)[-400:]}"
    finally:
        if made:
            quiet.unlink()
    return no_network()


def no_network() -> str:
    """Say why nodes cannot have a network here."""
    done = subprocess.run(
        ["sh", "-c", "ip link add rtprobe0 type bridge && ip link del rtprobe0"],
        capture_output=True,
        text=True,
    )
    return f"no bridge can be made here: {done.stderr.strip()}" if done.returncode else ""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of 16 cores and 4 GPUs, partitions main and spot."""
    why = missing()
    if why:
        skipped.append(why)
        pytest.skip(why)
    made = Cluster(Path(f"/var/tmp/realnet-test-slurm-{os.getpid()}"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """The small network that is not RL, with work that never ends."""
    path = tmp_path / "net.toml"
    path.write_text(small_net(tmp_path, num=100_000_000, workers=2, per_s=500))
    return path


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., SlurmRun]]:
    """Submit runs; at the end all are cancelled, and then nothing of them may be left."""
    runs: list[SlurmRun] = []

    def begin(topology: Path, *words: str, **environment: str) -> SlurmRun:
        runs.append(SlurmRun(cluster, topology, tmp_path / RUNS, words, environment))
        return runs[-1]

    yield begin
    cluster.whole()
    for run in runs:
        run.cancel()
    for run in runs:
        run.until(lambda run=run: not run.processes(), what="no process of it is left")  # type: ignore[misc]
    cluster.idle()
    for node in NODES:
        assert not cluster.do("exec", node, "ls", "/dev/shm"), f"shared memory left on {node}"
