"""What runs under SLURM must live through, on a real SLURM of three nodes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_jobs import ROOT, Cluster, SlurmRun, goes_on, works

pytestmark = pytest.mark.timeout(240)
Submit = Callable[..., SlurmRun]
SHARED_NODES = "exclusive = false\n"
STATES = ("waiting", "leased", "buffered", "trained", "set_aside", "dropped")


def test_cancel_leaves_no_process(submit: Submit, net: Path) -> None:
    run = submit(net, "--nodes", "3")
    works(run)
    assert len({*run.hosts().values()}) == 3
    run.until(lambda: len(run.processes()) >= 8, 10.0, "head, agents and members")
    top = run.bin("python", "-P", "-m", "realnet.cli", "top", str(run.folder), "--once")
    assert "node2" in top
    assert "gone" not in top
    run.cancel()
    took_s = run.until(lambda: not run.processes(), 20.0, "no process is left")
    run.until(lambda: run.state() == "CANCELLED", 20.0)
    print(f"nothing was left {took_s:.1f} s after bin/cancel")


def test_stop_from_the_login_node_ends_a_run_for_good(submit: Submit, net: Path) -> None:
    run = submit(net, "--nodes", "2")
    works(run)
    said = run.bin("python", "-P", "-m", "realnet.cli", "stop", str(run.folder))
    assert "asked to stop (SIGINT)" in said
    run.until(lambda: run.state() in ("FAILED", "COMPLETED"), 20.0, "it is not requeued")
    run.until(lambda: not run.processes(), 20.0)


def test_gpus_are_given_out_by_position(submit: Submit, tmp_path: Path) -> None:
    looking = tmp_path / "looking.py"
    looking.write_text((ROOT / "tests" / "slurm" / "looking.py").read_text())
    path = tmp_path / "look.toml"
    path.write_text(
        'title = "look"\n[roles.gang]\nkind = "looking.py:Looker"\nranks = 2\ngpus = 2\n'
        '[roles.one]\nkind = "looking.py:Looker"\ncount = 3\ngpus = 1\n'
        '[roles.none]\nkind = "looking.py:Looker"\n'
    )
    run = submit(path, "--nodes", "2")
    run.until(lambda: len([e for e in run.events() if "sees [" in e]) == 6, 60.0, "all look")
    seen: dict[str, list[str]] = {}
    for text in run.events():
        found = re.match(r"(\S+) on (\S+) sees \[(.*)\]", text)
        if found:
            seen.setdefault(found[2], []).extend(g for g in found[3].split(",") if g)
            if found[1] == "none/0":
                assert found[3] == ""
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
    site = tmp_path / "site.toml"
    site.write_text(SHARED_NODES + 'options = ["--nodelist=node1"]\n')
    words = ("--nodes", "1", "--site", str(site))
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


def test_a_lost_node_is_noticed_and_the_run_goes_on(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    run = submit(net, "--nodes", "3")
    works(run)
    gone = next(h for s, h in run.hosts().items() if s.startswith("worker/") and h != "node1")
    cluster.do("off", gone)
    noticed_s = run.until(lambda: run.said_that(f"host {gone} is lost"), 20.0, "it is noticed")
    print(f"a lost node was noticed after {noticed_s:.1f} s")
    assert noticed_s < 5.0
    run.until(lambda: len(run.hosts()) == 5 and gone not in run.hosts().values(), 30.0, "all up")
    goes_on(run)
    assert run.state() == "RUNNING"


def test_without_the_heads_node_survivors_are_clean_and_the_run_resumes(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    run = submit(net, "--nodes", "3")
    works(run)
    cluster.do("off", "node1")
    mark = str(run.folder)
    members = [f"{mark} {slot}" for slot in ("worker", "source", "sink", "helper")]

    def clean() -> bool:
        left = [p for n in ("node2", "node3") for p in cluster.processes(n, mark)]
        return not any(m in p for p in left for m in members)

    clean_s = run.until(clean, 30.0, "survivors are clean")
    print(f"survivors were clean after {clean_s:.1f} s")
    assert clean_s < 10.0
    run.until(lambda: run.state() != "RUNNING", 30.0, "the job was requeued by a survivor")
    cluster.do("on", "node1")
    run.until(lambda: run.attempt() == 2, 90.0, "another life")
    works(run, 2)


def test_a_preempted_elastic_host_leaves_and_comes_back(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    net.write_text(net.read_text().replace("[roles.worker]\n", "[roles.worker]\nmax = 3\n", 1))
    run = submit(net, "--nodes", "2")
    works(run)
    asked = ("--role", "worker", "--count", "1", "--partition", "spot", "--runs", str(run.runs))
    run.bin("join", str(run.folder), *asked)
    run.until(lambda: "worker/2" in run.hosts(), 40.0, "the elastic member is up")
    assert run.hosts()["worker/2"] == "node3"
    script = "#!/bin/sh\nsleep 4\n"
    told = subprocess.run(
        ["sbatch", "--parsable", "--nodes=1", "--exclusive", "--partition=main", "-o", "/dev/null"],
        input=script,
        text=True,
        capture_output=True,
        env=cluster.environment,
        check=True,
    )
    run.until(lambda: "worker/2" not in run.hosts(), 40.0, "it leaves")
    assert run.said_that("node3 leaves: it is being taken away")
    goes_on(run)
    run.until(lambda: run.state(told.stdout.strip()) == "COMPLETED", 60.0, "the other job runs")
    run.until(lambda: "worker/2" in run.hosts(), 60.0, "it is back")
    goes_on(run)
    last_life = [e for e in run.events() if "worker/2 died" in e]
    assert len(last_life) == 1, last_life
    run.cancel()
    run.until(lambda: not run.processes(), 20.0, "the array is cancelled too")


def test_a_stale_side_is_refused_when_the_link_heals(
    submit: Submit, cluster: Cluster, net: Path
) -> None:
    run = submit(net, "--nodes", "3", "--set", 'run.host_lease="120s"')
    works(run)
    cluster.do("link", "node3", "down")
    cut_s = time.monotonic()
    run.until(lambda: run.said_that("host node3 is lost"), 20.0, "it is noticed")
    run.until(lambda: len(run.hosts()) == 5 and "node3" not in run.hosts().values(), 30.0)
    goes_on(run)
    assert cluster.processes("node3", str(run.folder)), "its lease is long: it is still there"
    while time.monotonic() - cut_s < 45.0:
        time.sleep(0.2)
    cluster.do("link", "node3", "up")
    run.until(lambda: not cluster.processes("node3", str(run.folder)), 30.0, "it ends")
    goes_on(run)
    assert "node3" not in run.hosts().values()
    assert run.attempt() == 1


def test_what_cannot_work_is_told_before_a_job_spends_time(
    cluster: Cluster, net: Path, tmp_path: Path
) -> None:
    def told(*words: str, site: str = "", **environment: str) -> str:
        path = tmp_path / "site.toml"
        path.write_text(site)
        before = cluster.call("squeue", "-h", "-t", "all", "-o", "%i")
        text = cluster.call(
            *(str(ROOT / "bin" / "submit"), str(net), "--runs", str(tmp_path / "runs")),
            *("--site", str(path), *words),
            check=False,
            **environment,
        )
        assert cluster.call("squeue", "-h", "-t", "all", "-o", "%i") == before
        return text

    assert "no partition 'gpu'; it has: main, spot" in told(site='partition = "gpu"')
    assert "4 nodes: the partition has 3" in told("--nodes", "4")
    assert "there is no room for worker/0" in told("--set", "roles.worker.gpus=5")
    assert "CUDA_VISIBLE_DEVICES is given out by the launcher" in told(
        "--set", 'roles.worker.env.CUDA_VISIBLE_DEVICES="0"'
    )
    assert "no such key" in told(site='patition = "main"')
    assert "each node has for itself" in told(REALNET_SHARED_TMP="")


def test_a_node_with_other_code_is_named_and_a_spare_steps_in(
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
    site = tmp_path / "site.toml"
    site.write_text(f'wrap = ["{wrap}"]\n')
    run = submit(net, "--nodes", "2", "--spares", "1", "--site", str(site))
    works(run)
    assert run.said_that("excluded node2: code:"), run.events()
    assert set(run.hosts().values()) == {"node1", "node3"}


def test_the_batch_script_is_what_the_dry_run_shows(cluster: Cluster, net: Path) -> None:
    shown = cluster.call(str(ROOT / "bin" / "submit"), str(net), "--nodes", "3", "--dry-run")
    script = shown[shown.index("#!/bin/bash") : shown.index("# sbatch")]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--signal=B:USR2@600" in script
    assert "--no-kill" in script
    assert "node-0: " in shown


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


@pytest.mark.timeout(400)
def test_the_demo_learns_over_three_nodes_and_two_lives(submit: Submit) -> None:
    demo = ROOT / "topologies" / "demo.toml"
    run = submit(demo, "--nodes", "3", *SHORT)
    first_s = run.until(lambda: step(run) >= 1, 200.0, "the first step")
    told = run.bin("python", "-P", "-m", "realnet.cli", "startup", str(run.folder))
    print(told)
    assert [line.split()[5] for line in told.splitlines()] == [
        *("job", "head", "agents", "preflight", "processes", "warm", "version", "step")
    ]
    assert len(set(run.hosts().values())) == 3
    run.until(lambda: step(run) >= 15, 120.0, "some steps")
    run.cluster.call("scancel", "--batch", "--signal=USR2", run.job)
    run.until(lambda: run.attempt() == 2, 90.0, "another life")
    ended = json.loads((run.folder / "attempts" / "1" / "outcome.json").read_bytes())
    assert ended["text"] == "asked to stop (SIGUSR2)"
    assert ended["checkpoint"]
    run.until(lambda: run.state() == "COMPLETED", 200.0, "it comes to its end")
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
