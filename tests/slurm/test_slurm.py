"""What runs under SLURM must live through, on a real SLURM of three nodes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_jobs import NODES, ROOT, RUNS, Cluster, SlurmRun, goes_on, grows, works

pytestmark = pytest.mark.timeout(480)  # of a busy machine: what hangs ends
Submit = Callable[..., SlurmRun]
SHARED_NODES = "exclusive = false\n"
STATES = ("waiting", "leased", "buffered", "trained", "set_aside", "dropped")


def site(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def looking(folder: Path, roles: str) -> Path:
    """A topology of roles of looking.py."""
    (folder / "looking.py").write_text((ROOT / "tests" / "slurm" / "looking.py").read_text())
    path = folder / "look.toml"
    path.write_text('title = "look"\n' + roles)
    return path


def test_cancel_leaves_no_process_and_no_job(
    submit: Submit, cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    grows(net, 3)
    named = ("--nodes", "3", "--name", "run0", "--runs", str(tmp_path / RUNS))
    shown = cluster.call(str(ROOT / "bin" / "submit"), str(net), *named, "--dry-run")
    run = submit(net, "--nodes", "3")
    script = (run.folder / "job.sh").read_text()
    assert script in shown  # what was shown is what was submitted
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--signal=B:USR2@600" in script
    assert "node-0: " in shown
    works(run)
    assert len({*run.hosts().values()}) == 3
    secrets = [p.read_text() for p in (run.folder / "keys").glob("*.secret")]
    assert len(secrets) > 8
    for node in NODES:  # with their environments: no process has been told a key on its way
        told = cluster.do("exec", node, "ps", "axeww", "-o", "args")
        assert "REALNET_KEY_FD=" in told
        assert not any(secret in told for secret in secrets)
    run.until(lambda: len(run.processes()) >= 8, what="head, agents and members")
    top = run.realnet("top", "--once")
    assert "node2" in top
    assert "gone" not in top
    assert "sink/0" in run.realnet("why")
    assert "--- worker/0, life 1" in run.realnet("logs", "worker")
    run.bin("join", str(run.folder), "--role", "worker", "--runs", str(run.runs))
    waiting = str(run.jobs()[-1]["number"])
    assert run.state(waiting) == "PENDING"  # no node is left for it
    cancelled_s = time.monotonic()
    run.cancel()
    run.until(lambda: not run.processes(), what="no process is left")
    took_s = time.monotonic() - cancelled_s
    run.until(lambda: run.state() == run.state(waiting) == "CANCELLED")
    print(f"nothing was left {took_s:.1f} s after bin/cancel was called")
    late = cluster.call(
        *(str(ROOT / "bin" / "join"), str(run.folder), "--role", "worker"), check=False
    )
    assert "run0 is not going on: bin/resume" in late
    again = submit(net, "--nodes", "3")  # and at a moment when it is only beginning
    again.until(lambda: bool(again.processes()), what="something of it is there")
    again.cancel()
    again.until(lambda: not again.processes(), what="no process is left")


def test_a_run_that_fails_says_who_was_first_and_is_not_tried_again(
    submit: Submit, tmp_path: Path
) -> None:
    path = looking(tmp_path, '[roles.one]\nkind = "looking.py:Failing"\nrestart = "1 per 1min"\n')
    run = submit(path, "--nodes", "1", "--site", str(site(tmp_path, SHARED_NODES)))
    run.until(lambda: run.state() == "FAILED", what="it has failed")
    assert run.exit_code() == 1
    report = (run.folder / "attempts" / "1" / "failure.txt").read_text()
    assert "one/0 died: RuntimeError: no such luck" in report
    assert "the last that it did" in report
    assert report in run.output()
    assert run.attempt() == 1


def test_gpus_are_given_out_by_position(submit: Submit, tmp_path: Path) -> None:
    text = (
        '[roles.gang]\nkind = "looking.py:Looker"\nranks = 2\ngpus = 2\n'
        '[roles.one]\nkind = "looking.py:Looker"\ncount = 3\ngpus = 1\ncpus = 3\n'
        '[roles.none]\nkind = "looking.py:Looker"\n'
    )
    run = submit(looking(tmp_path, text), "--nodes", "2")
    run.until(lambda: len([e for e in run.events() if "sees [" in e]) == 6, what="all look")
    seen: dict[str, list[str]] = {}
    cores = len(os.sched_getaffinity(0))
    for text in run.events():
        found = re.match(r"(\S+) on (\S+) sees \[(.*)\] and (\d+) cores, runs (\d+) threads", text)
        if found:
            seen.setdefault(found[2], []).extend(g for g in found[3].split(",") if g)
            if found[1] == "none/0":
                assert found[3] == ""
            assert int(found[4]) == cores, text  # of a whole node: bound to no part of it
            assert int(found[5]) == (3 if found[1].startswith("one/") else 1), text
    gpus = sorted(len(g) for g in seen.values())
    assert gpus == [3, 4], seen
    assert all(len(set(g)) == len(g) for g in seen.values()), f"a GPU given twice: {seen}"
    gang = [e for e in run.events() if e.startswith("gang/0")]
    assert len({e.rpartition(" ")[2] for e in gang}) == 1, gang  # they meet at one place
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert int(gang[0].rpartition(":")[2]) < low


def test_two_runs_on_one_node_whose_slurmd_crashes_and_comes_back(
    submit: Submit, cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    on_one = site(tmp_path, SHARED_NODES + 'options = ["--nodelist=node1"]\n')
    words = ("--nodes", "1", "--site", str(on_one))
    first, second = submit(net, *words), submit(net, *words)
    works(first)
    works(second)
    assert {*first.hosts().values(), *second.hosts().values()} == {"node1"}
    goes_on(first)
    cluster.do("slurmd", "node1", "kill")
    goes_on(first)
    goes_on(second)
    cluster.do("slurmd", "node1", "start")
    run_of_one = cluster.call("srun", "--overlap", f"--jobid={first.job}", "--mem=0", "hostname")
    assert run_of_one.strip() == "node1"  # slurmd is there again, and the job still its own
    goes_on(second)
    assert [r.state() for r in (first, second)] == ["RUNNING", "RUNNING"]
    assert not first.said_that("is lost")
    assert not second.said_that("is lost")


def test_what_was_on_a_lost_node_goes_elsewhere_and_then_the_run_goes_on_with_fewer(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    text = net.read_text().replace("count = 2\n", "count = 4\ngpus = 2\n", 1)
    net.write_text(
        text.replace('"50 per 1min"', '{ times = 50, per = "1min", then = "drop", floor = 2 }', 1)
    )
    run = submit(net, "--nodes", "3")
    works(run, num=7)

    def lose(rest: int) -> float:
        there = {h for s, h in run.hosts().items() if s.startswith("worker/")}
        gone = max(there - {"node1"})
        cluster.do("off", gone)
        noticed_s = run.until(lambda: run.said_that(f"host {gone} is lost"), what="it is noticed")
        run.until(
            lambda: len(run.hosts()) == rest and gone not in run.hosts().values(), what="all up"
        )
        goes_on(run)
        return noticed_s

    noticed_s = [lose(7)]  # there is room on the others
    noticed_s.append(lose(5))  # there is none, and two of four workers are enough
    print(f"a lost node was noticed after {noticed_s[0]:.1f} s, another after {noticed_s[1]:.1f} s")
    assert min(noticed_s) < 5.0  # a busy machine may miss a moment, not two
    given_up = [e for e in run.events() if "is given up, the others go on" in e]
    assert len(given_up) == 2, given_up
    assert run.state() == "RUNNING"
    assert run.attempt() == 1


def test_without_the_heads_node_survivors_are_clean_and_the_runs_go_on(
    submit: Submit, cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    requeued = submit(net, "--nodes", "3", "--site", str(site(tmp_path, SHARED_NODES)))
    follows = site(tmp_path, SHARED_NODES + 'again = "successor"\n')
    followed = submit(net, "--nodes", "3", "--site", str(follows))
    runs = (requeued, followed)
    for run in runs:
        works(run)
    cluster.do("off", "node1")
    off_s = time.monotonic()
    clean_s = []
    for run in runs:
        mark = str(run.folder)
        members = [f"{mark} {slot}" for slot in ("worker", "source", "sink", "helper")]

        def clean(mark: str = mark, members: list[str] = members) -> bool:
            left = [p for n in ("node2", "node3") for p in cluster.processes(n, mark)]
            return not any(m in p for p in left for m in members)

        run.until(clean, what="survivors are clean")
        clean_s.append(time.monotonic() - off_s)
    print(f"survivors were clean after {clean_s[0]:.1f} s, and of both runs after {clean_s[1]:.1f}")
    assert clean_s[0] < 10.0
    for run in runs:  # neither job holds its nodes for nobody
        run.until(lambda run=run: run.state() != "RUNNING", what="a survivor saw to it")  # type: ignore[misc]
    assert len(followed.lives()) == 2
    assert followed.state() in ("CANCELLED", "COMPLETING")
    cluster.do("on", "node1")
    for run in runs:
        run.until(lambda run=run: run.attempt() == 2, what="another life")  # type: ignore[misc]
        works(run, 2)
    assert len(requeued.lives()) == 1


def test_a_stale_side_is_refused_when_the_link_heals(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    run = submit(net, "--nodes", "3", "--set", 'run.host_lease="120s"')
    works(run)
    cluster.do("link", "node3", "down")
    cut_s = time.monotonic()
    run.until(lambda: run.said_that("host node3 is lost"), what="it is noticed")
    run.until(lambda: len(run.hosts()) == 5 and "node3" not in run.hosts().values())
    goes_on(run)
    assert cluster.processes("node3", str(run.folder)), "its lease is long: it is still there"
    while time.monotonic() - cut_s < 45.0:
        time.sleep(0.2)
    cluster.do("link", "node3", "up")
    run.until(lambda: not cluster.processes("node3", str(run.folder)), what="it ends")
    goes_on(run)
    assert "node3" not in run.hosts().values()
    assert run.attempt() == 1


def test_what_cannot_work_is_told_before_a_job_spends_time(
    cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    def told(*words: str, site_text: str = "", **environment: str) -> str:
        path = site(tmp_path, site_text)
        before = cluster.call("squeue", "-h", "-t", "all", "-o", "%i")
        text = cluster.call(
            *(str(ROOT / "bin" / "submit"), str(net), "--runs", str(tmp_path / RUNS)),
            *("--site", str(path), *words),
            check=False,
            **environment,
        )
        assert cluster.call("squeue", "-h", "-t", "all", "-o", "%i") == before
        return text

    assert "no partition 'gpu'; it has: cheap, main, spot" in told(site_text='partition = "gpu"')
    assert "4 nodes: the partition has 3" in told("--nodes", "4")
    assert "there is no room for worker/0" in told("--set", "roles.worker.gpus=5")
    assert "CUDA_VISIBLE_DEVICES is given out by the launcher" in told(
        "--set", 'roles.worker.env.CUDA_VISIBLE_DEVICES="0"'
    )
    assert "there is no such file" in told(site_text='unpack = "/shared/none.tar"')
    assert "no such key" in told(site_text='patition = "main"')
    assert "each node has for itself" in told(REALNET_SHARED_TMP="")


def test_nodes_with_other_code_or_another_folder_are_named_and_a_spare_steps_in(
    submit: Submit, cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "realnet", other / "realnet")
    changed = other / "realnet" / "errors.py"
    changed.write_text(changed.read_text() + "\n# another version\n")
    wrap = tmp_path / "wrap"
    wrap.write_text(
        f'#!/bin/sh\n[ "$SLURMD_NODENAME" = node2 ] && export PYTHONPATH={other}\nexec "$@"\n'
    )
    wrap.chmod(0o755)
    runs = tmp_path / RUNS
    runs.mkdir()
    mount = ("mount", "-t", "tmpfs", "tmpfs", str(runs))  # not what the others have there
    cluster.do("exec", "node3", *mount)
    try:
        quick = ("--set", 'run.gather="15s"')  # node3 will not come
        words = ("--nodes", "1", "--spares", "2", *quick)
        run = submit(net, *words, "--site", str(site(tmp_path, f'wrap = ["{wrap}"]\n')))
        works(run)
        assert run.said_that("excluded node2: code:"), run.events()
        assert run.said_that(f"node3 has not come: is {run.folder} there"), run.events()
        assert set(run.hosts().values()) == {"node1"}
    finally:
        cluster.do("exec", "node3", "umount", str(runs))


# ------------------------------------------------------------ the demo


SHORT = [
    word
    for value in (
        "run.until.steps=40",
        'run.eval="10 steps"',
        'run.save.every="5 steps"',
        "roles.generator.count=2",
        "tasks.addz_test.limit=64",
        "tasks.addz_test_forced.limit=16",
    )
    for word in ("--set", value)
]


def step(run: SlurmRun, attempt: int = 0) -> int:
    rows = [r for r in run.rows("metrics", attempt) if r["actor"] == "trainer/0" and "loss" in r]
    return max((r["step"] for r in rows), default=-1)


@pytest.mark.timeout(1800)
def test_the_demo_learns_over_three_nodes_and_two_lives(submit: Submit) -> None:
    demo = ROOT / "topologies" / "demo.toml"
    run = submit(demo, "--nodes", "3", *SHORT)
    first_s = run.until(lambda: step(run) >= 1, 600.0, "the first step")
    told = run.realnet("startup")
    print(told)
    parts = {line.split()[5]: float(line.split()[0]) for line in told.splitlines()}
    assert list(parts) == [
        *("job", "head", "agents", "preflight", "processes", "warm", "version", "step")
    ]
    assert parts["preflight"] < 30.0
    assert len(set(run.hosts().values())) == 3
    run.until(lambda: step(run) >= 15, 400.0, "some steps")
    run.cluster.call("scancel", "--batch", "--signal=USR2", run.job)
    run.until(lambda: run.attempt() == 2, what="another life")
    ended = json.loads((run.folder / "attempts" / "1" / "outcome.json").read_bytes())
    assert ended["text"] == "asked to stop (SIGUSR2)"
    assert ended["checkpoint"]
    run.until(lambda: run.state() == "COMPLETED", 600.0, "it comes to its end")
    assert step(run, 2) >= 40
    measured = {
        int(r["step"]): float(r["text"].split("pass@1 ")[1].split(",")[0])
        for r in run.rows("events")
        if str(r.get("text", "")).startswith("addz_test pass@1")
    }
    assert measured[40] > measured[0] + 0.3, measured
    assert min(r["step"] for r in run.rows("metrics", 2) if "loss" in r) > 15
    counts = json.loads((run.folder / "ledger.json").read_text())
    counts = counts.get("counts", counts)
    assert counts["issued"] == sum(counts[s] for s in STATES)
    print(f"submit to first training step: {first_s:.1f} s")
