"""Hosts that come for elastic members: into a pool, with an environment of their own on each node.
They are taken away, come again, wait for the run's next life, and end with the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_jobs import NODES, Cluster, SlurmRun, goes_on, grows, works

pytestmark = pytest.mark.timeout(480)  # of a busy machine: what hangs ends
Submit = Callable[..., SlurmRun]
SITE = """
partition = "main"
scratch   = "{local}"
unpack    = "{archive}"
[pools.rollouts]
partition = "spot"
before    = ["touch {folder}/before-$SLURMD_NODENAME"]
"""


def environment(folder: Path) -> Path:
    """A tar of an environment, whose Python finds what this one finds."""
    home = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "here.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))
    archive = folder / "env.tar.gz"
    subprocess.run(["tar", "-czf", str(archive), "-C", str(home), "."], check=True)
    return archive


def test_preempted_hosts_of_a_pool_leave_come_back_and_live_as_long_as_the_run(
    submit: Submit, cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    grows(net, 4, 'pool = "rollouts"\n')
    with net.open("a") as file:
        file.write("\n[pools.main]\nnodes = 1\n[pools.rollouts]\nnodes = 1\n")
    local, site = cluster.folder / "local", tmp_path / "site.toml"
    site.write_text(SITE.format(local=local, archive=environment(tmp_path), folder=tmp_path))
    run = submit(net, "--site", str(site))
    works(run)
    assert run.hosts()["worker/1"] == "node2"
    assert run.hosts()["source/0"] == "node1"
    asked = ("--role", "worker", "--runs", str(run.runs))
    run.bin("join", str(run.folder), *asked, "--count", "2")
    elastic = str(run.jobs()[-1]["number"])
    assert run.cluster.call("squeue", "-h", "-j", elastic, "-o", "%P").split()[0] == "spot"
    more = {"worker/2", "worker/3"}
    run.until(lambda: more <= set(run.hosts()), what="the elastic members are up")
    labels = {run.hosts()[s] for s in more}  # two shares of one node
    assert len(labels) == 2
    assert {label.partition("+")[0] for label in labels} == {"node3"}
    goes_on(run)
    assert not run.said_that("is lost"), run.events()
    assert {p.name for p in tmp_path.glob("before-*")} == {"before-node2", "before-node3"}
    for node in NODES:
        members = [p for p in cluster.processes(node, str(run.folder)) if "realnet.member" in p]
        assert members
        assert all(p.startswith(f"{local}/realnet-0/env.tar.gz-") for p in members), members
    told = cluster.call(*_join(run), *asked, check=False)
    assert "at most 0 more" in told

    other = cluster.take()
    run.until(lambda: not more & set(run.hosts()), what="they leave")
    left = [e for e in run.events() if "leaves: it is being taken away" in e]
    assert len(left) == 2, run.events()
    goes_on(run)
    run.until(lambda: run.state(other) == "COMPLETED", what="the other job runs")
    run.until(lambda: more <= set(run.hosts()), what="they are back")
    goes_on(run)
    for slot in more:
        assert sum(f"{slot} died" in e for e in run.events()) == 1, run.events()

    run.cluster.call("scancel", "--batch", "--signal=USR2", run.job)
    run.until(lambda: run.attempt() == 2, what="another life")
    works(run, 2, num=7)  # they have waited for it
    goes_on(run)

    assert "asked to stop (SIGINT)" in run.realnet("stop")
    run.until(lambda: run.state() == "FAILED", what="it has ended, and is not requeued")
    assert run.exit_code() == 130
    run.until(lambda: not run.processes(), what="no process is left")
    run.until(lambda: "RUNNING" not in run.state(elastic), what="nor a job that holds a node")
    assert run.attempt() == 2


def _join(run: SlurmRun) -> tuple[str, str]:
    return str(Path(__file__).parents[2] / "bin" / "join"), str(run.folder)
