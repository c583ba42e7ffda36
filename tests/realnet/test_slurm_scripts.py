"""What is submitted to SLURM, from a topology and a site file; needs no SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from small_net import topology as small_net

from realnet.cli import main as cli
from realnet.errors import ConfigError
from realnet.slurm import travel
from realnet.slurm.commands import Shape, read_time
from realnet.slurm.fleet import SlurmFleet
from realnet.slurm.parts import divide
from realnet.slurm.records import (
    Ended,
    Job,
    Part,
    Submission,
    first_free,
    going_in_circles,
    newest_checkpoint,
    note_begin,
    note_job,
    read_jobs,
    write_ended,
)
from realnet.slurm.script import minutes, node_script, python_words
from realnet.slurm.site import Site, for_pool, read_site
from realnet.slurm.submit import main
from realnet.slurm.travel import refuse_what_cannot_travel
from realnet.topology import Plan, read_source, resolve
from realnet.topology.plan import write_plan

SITE = """\
partition = "batch"
account   = "proj42"
modules   = ["cuda/12.4"]
interface = "ib0"
time      = "2h"
notice    = "5min"
export    = ["WANDB_MODE"]
gpus_as   = "gres"
options   = ["--reservation=x"]
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.toml"
    path.write_text(
        small_net(tmp_path, workers=3).replace("[roles.worker]\n", "[roles.worker]\ngpus = 1\n", 1)
    )
    return path


def dry(net: Path, *words: str, code: int = 0) -> str:
    told = CliRunner().invoke(main, ["submit", str(net), "--dry-run", *words])
    assert told.exit_code == code, told.output
    return told.output


def test_a_dry_run_shows_the_script_the_command_and_who_lives_where(
    net: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    shown = dry(net, "--nodes", "2", "--spares", "1", "--site", str(site), "--name", "first")
    script = shown[shown.index("#!/bin/bash") : shown.index("# sbatch")]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for line in (
        "#SBATCH --nodes=3",
        "#SBATCH --partition=batch",
        "#SBATCH --account=proj42",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --time=120",
        "#SBATCH --signal=B:USR2@300",
        "#SBATCH --requeue",
        "#SBATCH --no-kill",
        "#SBATCH --open-mode=append",
        "#SBATCH --reservation=x",
        "export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}",
        "module load cuda/12.4 || exit 93",
        "trap '' USR2",
    ):
        assert line in script.splitlines(), line
    assert ",WANDB_MODE" in script
    assert ",HF_HOME," in script  # where things were fetched to
    assert script.splitlines()[-2].startswith("exec ")  # signals reach Python itself
    assert "worker/0 (GPU 0)" in shown
    assert "node-2: nothing: a spare" in shown
    assert not (tmp_path / "runs").exists()


def test_a_site_file_is_read_as_strictly_as_a_topology(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('partitoin = "main"\n')
    with pytest.raises(ConfigError, match="partition"):
        read_site(path)
    path.write_text('export = ["CUDA_VISIBLE_DEVICES"]\n')
    with pytest.raises(ConfigError, match="given out by SLURM and by the agent of each node"):
        read_site(path)
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_site(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('time = "5min"', "notice: a job that may last 300 s would be told to stop 600 s before"),
        ('ports = "5-3"', "ports: '5-3' is not a range of ports"),
        ('before = ["export CUDA_VISIBLE_DEVICES=0"]', "before: CUDA_VISIBLE_DEVICES is given out"),
        ('export = ["A=1,2"]', "export: 'A=1,2' is not the name of an environment variable"),
        ('[pools.x]\nbefore = ["CUDA_VISIBLE_DEVICES=0"]', "CUDA_VISIBLE_DEVICES is given out"),
    ],
)
def test_what_a_site_file_says_is_looked_at_before_a_job_is(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_site(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text in UTF-8"):
        read_site(path)


def test_a_folder_and_a_run_may_have_blanks_and_quotes_in_their_names(
    net: Path, tmp_path: Path
) -> None:
    """As words of #SBATCH lines, where % is no pattern of SLURM's. All runs of tests/slurm have."""
    runs = tmp_path / "Bob's runs, 100 %j"
    shown = dry(net, "--runs", str(runs), "--name", 'a "b" #1')
    assert '#SBATCH "--job-name=realnet-a \\"b\\" #1"\n' in shown
    folder = str(runs).replace("%", "%%")
    assert f'#SBATCH "--output={folder}/a \\"b\\" #1/slurm-%j.log"\n' in shown
    script = shown[shown.index("#!/bin/bash") : shown.index("# sbatch")]
    words = shlex.split(script.splitlines()[-2])
    assert words[-1] == f'{runs}/a "b" #1'
    (line,) = [line for line in shown.splitlines() if line.startswith("# sbatch")]
    assert shlex.split(line)[-1] == f'{runs}/a "b" #1/job.sh'
    assert "SLURM takes no file whose path has" in dry(net, "--runs", f"{tmp_path}/a\\b", code=2)
    assert "on one line" in dry(net, "--name", "a\n#SBATCH --exclusive", code=2)


def test_without_its_modules_a_job_does_not_go_on(tmp_path: Path) -> None:
    functions = tmp_path / "functions"
    functions.write_text('module() { echo "$@"; [ "$2" != none/1 ]; }\n')

    def told(*modules: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-s", "echo", "it goes on"],
            input=node_script(Site(modules=list(modules))),
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        return done.returncode, done.stdout

    there = {"BASH_ENV": str(functions)}
    assert told("a/1", "b/2", **there) == (0, "load a/1\nload b/2\nit goes on\n")
    assert told("a/1", "none/1", **there) == (93, "load a/1\nload none/1\n")
    assert told() == (0, "it goes on\n")


@pytest.mark.parametrize("words", [("--nodes", "0"), ("--spares", "-1"), ("--nodes", "-2")])
def test_no_nodes_are_not_asked_for(net: Path, words: tuple[str, str]) -> None:
    assert "is not in the range" in dry(net, *words, code=2)


def test_the_site_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "slurm.md").read_text()
    example = page[page.index('    partition = "batch"') : page.index("With such a table")]
    path = tmp_path / "site.toml"
    path.write_text(example)
    site, where = read_site(path)
    assert where == path
    assert site.again == "requeue"
    assert for_pool(site, "rollouts").partition == "spot"
    assert set(site.__struct_fields__) <= {
        *example.split(),
        "pools",
        "python",
        "qos",
        "constraint",
        "exclude",
    }


def in_pools(net: Path) -> None:
    text = net.read_text().replace("[roles.worker]\n", '[roles.worker]\npool = "rollouts"\n', 1)
    net.write_text(text + "\n[pools.main]\nnodes = 1\n[pools.rollouts]\nnodes = 2\n")


def test_a_job_has_a_part_for_each_pool_whose_nodes_differ(net: Path, tmp_path: Path) -> None:
    in_pools(net)
    site = tmp_path / "site.toml"
    site.write_text(
        'partition = "main"\naccount = "a"\n[pools.rollouts]\npartition = "spot"\n'
        'modules = ["cuda/13"]\nports = "21000-21999"\nexclusive = false\n'
    )
    shown = dry(net, "--site", str(site), "--name", "first", "--spares", "1")
    script = shown[shown.index("#!/bin/bash") : shown.index("# /")]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    main, rollouts = script.split("#SBATCH hetjob\n")
    for part, partition, nodes in ((main, "main", 2), (rollouts, "spot", 3)):
        assert f"#SBATCH --partition={partition}" in part
        assert f"#SBATCH --nodes={nodes}" in part
        assert "#SBATCH --account=a" in part
    assert "#SBATCH --gpus-per-node=2" in rollouts
    assert "gpus" not in main
    assert "#SBATCH --cpus-per-task=2" in rollouts
    assert "--signal" not in rollouts  # the head is in the first part
    assert "node-rollouts.sh" in shown
    assert "module load cuda/13" in shown.partition("node-rollouts.sh")[2]
    assert "node-1 [main]: nothing: a spare" in shown
    assert "node-2 [rollouts]: " in shown


def test_pools_of_which_the_site_says_nothing_share_a_job_of_one_part(
    net: Path, tmp_path: Path
) -> None:
    in_pools(net)
    site = tmp_path / "site.toml"
    site.write_text('partition = "main"\n[pools.elsewhere]\npartition = "spot"\n')
    shown = dry(net, "--site", str(site))
    assert "hetjob" not in shown
    assert "#SBATCH --nodes=3" in shown


def test_a_pool_cannot_say_what_is_of_the_whole_job(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[pools.x]\ntime = "1h"\n')
    with pytest.raises(ConfigError, match=r"pools\.x\.time: it is of the whole job"):
        read_site(path)
    path.write_text('[pools.x]\npartitoin = "spot"\n')
    with pytest.raises(ConfigError, match=r"no such key.*partition"):
        read_site(path)


@pytest.mark.parametrize(("gpus_as", "option"), [("", "--gpus-per-node="), ("gres", "--gres=gpu:")])
def test_the_agents_of_each_part_get_the_gpus_of_their_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus_as: str, option: str
) -> None:
    monkeypatch.setattr("realnet.slurm.fleet._own_address", lambda *given: "127.0.0.1")
    parts = [Part("main", 1, 0, 0, 2), Part("rollouts", 2, 0, 4, 8)]
    site = {"gpus_as": gpus_as} if gpus_as else {}
    asked = Submission(3, 0, 4, 8, "python", [], site, parts)
    fleet = SlurmFleet(tmp_path, asked, [["a"], ["b", "c"]], "a")
    for at, gpus in enumerate((0, 4)):
        words = fleet._srun_words(at, at, 1)
        assert f"--het-group={at}" in words
        assert [w for w in words if "gpu" in w] == [f"{option}{gpus}"]


def test_nodes_of_a_partition_that_mixes_them_are_asked_for_by_what_is_needed(net: Path) -> None:
    plan = plan_of(net)  # three workers with a GPU each
    small, large = Shape(10, 8, 0, 1 << 34), Shape(2, 64, 4, 1 << 38)
    (part,), placement = divide(plan, Site(), 0, 0, lambda _: [small, large])
    assert (part.nodes, part.gpus) == (1, 3)  # all on one of those that have GPUs
    assert {p.host for p in placement.places.values()} == {"node-0"}
    with pytest.raises(ConfigError, match=r"no room for worker/0 \(1 cores, 1 GPUs\)"):
        divide(plan, Site(), 0, 0, lambda _: [small])
    with pytest.raises(ConfigError, match="13 nodes: the partition has 12"):
        divide(plan, Site(), 13, 0, lambda _: [small, large])
    with pytest.raises(ConfigError, match="12 nodes and 1 spares: the partition has 12"):
        divide(plan, Site(), 12, 1, lambda _: [small, large])
    in_pools(net)
    site = Site(pools={"rollouts": {"partition": "gpus"}})
    shapes = {"": [small], "gpus": [Shape(4, 8, 1, 1 << 34), large]}
    parts, _ = divide(plan_of(net), site, 0, 0, shapes.__getitem__)
    assert [(p.pool, p.nodes, p.gpus) for p in parts] == [("main", 1, 0), ("rollouts", 2, 3)]
    with pytest.raises(ConfigError, match="pool rollouts needs 7 nodes: its partition has 6"):
        divide(plan_of(net), site, 0, 5, shapes.__getitem__)


def plan_of(net: Path) -> Plan:
    return resolve(read_source(net, ()), "net")


def test_more_nodes_than_the_pools_want_are_not_asked_for(net: Path, tmp_path: Path) -> None:
    in_pools(net)
    site = tmp_path / "site.toml"
    site.write_text('[pools.rollouts]\npartition = "spot"\n')
    shown = dry(net, "--site", str(site), "--nodes", "4", code=2)
    assert "the pools of net want 3" in shown


def test_an_environment_is_unpacked_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    def packed(says: str) -> None:
        home = tmp_path / "env" / "bin"
        home.mkdir(parents=True, exist_ok=True)
        (home / "python").write_text(f'#!/bin/sh\necho {says} "$@"\n')
        (home / "python").chmod(0o755)
        subprocess.run(["tar", "-czf", "env.tar.gz", "-C", "env", "bin"], cwd=tmp_path, check=True)

    words = python_words(Site(unpack=str(tmp_path / "env.tar.gz"), scratch=str(tmp_path / "s")), "")

    def told() -> str:
        runs = [
            subprocess.Popen([*words, "-m", "x"], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        said = {run.communicate()[0] for run in runs}
        assert all(run.returncode == 0 for run in runs)
        return said.pop() if len(said) == 1 else str(said)

    packed("first")
    assert told() == told() == "first -m x\n"
    (own,) = (tmp_path / "s").iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
    assert len([p for p in own.iterdir() if p.is_dir()]) == 1
    packed("second-one")
    assert told() == "second-one -m x\n"
    missing = [*words[:2], str(tmp_path / "none.tar"), *words[3:]]
    told_off = subprocess.run(missing, capture_output=True, text=True)
    assert told_off.returncode == 2
    assert "no environment to unpack" in told_off.stderr
    own.chmod(0o777)  # so others may have put a Python of theirs there
    told_off = subprocess.run(words, capture_output=True, text=True)
    assert told_off.returncode == 2
    assert "remove it, or name another scratch" in told_off.stderr
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    assert subprocess.run(words, capture_output=True).returncode == 2


def test_a_topology_that_does_not_fit_is_told(net: Path) -> None:
    shown = dry(net, "--nodes", "1", "--set", 'roles.worker.place="source"', code=2)
    assert "roles.worker" in shown


def test_what_nodes_cannot_see_is_told_on_the_login_node(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REALNET_SHARED_TMP", raising=False)
    monkeypatch.setattr(travel, "code_home", lambda: Path("/shared/realnet"))
    plan = msgspec.structs.replace(plan_of(net), base="/shared/topologies")
    run, site = Path("/shared/runs/a"), Site(python="/shared/env/bin/python")
    refuse_what_cannot_travel(run, plan, [site])

    def told(folder: Path = run, base: str = plan.base, site: Site = site) -> str:
        with pytest.raises(ConfigError) as error:
            refuse_what_cannot_travel(
                folder, msgspec.structs.replace(plan, base=base), [Site(wrap=["x"]), site]
            )
        return str(error.value)

    assert "the run's folder /tmp/runs/a is in /tmp, which each node has for itself" in told(
        Path("/tmp/runs/a")
    )
    assert "the topology's folder /var/tmp/t is in /var/tmp" in told(base="/var/tmp/t")
    assert "the Python /tmp/python is in /tmp" in told(site=Site(python="/tmp/python"))
    assert "there is no such file" in told(site=Site(unpack=str(tmp_path / "none.tar")))
    monkeypatch.setattr(travel, "code_home", lambda: Path("/dev/shm/realnet"))
    assert "realnet itself, /dev/shm/realnet, is in /dev/shm" in told()
    monkeypatch.setenv("REALNET_SHARED_TMP", "1")
    refuse_what_cannot_travel(Path("/tmp/runs/a"), plan, [site])


def test_jobs_are_noted_before_and_after_they_are_submitted(tmp_path: Path) -> None:
    note_job(tmp_path, Job("run"))
    assert read_jobs(tmp_path) == []  # tried, and nobody knows its number
    note_job(tmp_path, Job("run", 7))  # by the job itself, which was faster
    note_job(tmp_path, Job("run", 7))
    note_job(tmp_path, Job("worker", 8, 3, 2))
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write(b'{"what": "to')  # a torn line
    assert [(j.what, j.number, j.first, j.count) for j in read_jobs(tmp_path)] == [
        ("run", 7, 0, 0),
        ("worker", 8, 3, 2),
    ]


def test_agents_of_elastic_hosts_have_numbers_of_their_own() -> None:
    jobs = [Job("run", 1), Job("worker", 2, 4, 1), Job("worker", 3, 6, 2)]
    assert first_free(3, 1, jobs) == 3
    assert first_free(3, 2, jobs) == 8  # not 5, whose next is taken
    assert first_free(4, 1, jobs) == 5
    assert first_free(3, 2, []) == 3


def test_a_run_that_slurm_has_not_begun_says_what_it_waits_for(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    write_plan(plan_of(net), runs / "a")
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)

    def told(answer: str) -> str:
        squeue.write_text(f"#!/bin/sh\n{answer}\n")
        squeue.chmod(0o755)
        done = CliRunner().invoke(cli, ["top", "a", "--once", "--runs", str(runs)])
        assert done.exit_code == 1, done.output
        assert CliRunner().invoke(cli, ["ls", "--runs", str(runs)]).output.startswith("a ")
        return done.output

    assert "no run has begun there" in told("exit 1")
    note_job(runs / "a", Job("run", 12))
    note_job(runs / "a", Job("worker", 13, 2, 1))
    assert "has not begun: job 12 is PENDING (Priority)" in told("echo 'PENDING|Priority'")
    failed = told("echo 'FAILED|NonZeroExitCode'")
    assert f"job 12 is FAILED (NonZeroExitCode): see {runs}/a/slurm-12.log" in failed
    assert "job 12: squeue -h: no controller" in told("echo no controller >&2; exit 1")
    (runs / "a" / "attempts" / "1" / "logs").mkdir(parents=True)
    (runs / "a" / "attempts" / "latest").symlink_to("1")
    (runs / "a" / "slurm-12.log").write_text("it could not begin\n")
    for verb in (["resume", "a"], ["join", "a", "--role", "worker"]):
        done = CliRunner().invoke(main, [*verb, "--runs", str(runs)])
        assert "a was not submitted to SLURM: bin/submit TOPOLOGY does that" in done.output
        assert f"Usage: bin/{verb[0]} " in CliRunner().invoke(main, [verb[0], "-h"]).output
    shown = CliRunner().invoke(cli, ["logs", "a", "--runs", str(runs)])
    assert "it could not begin" in shown.output


def attempt(folder: Path, number: int, checkpoint: str = "", *, word: bool = True) -> None:
    """One attempt, and the checkpoint that it leaves; killed without a word, or not."""
    (folder / "attempts" / str(number)).mkdir(parents=True)
    note_begin(folder, number)
    if checkpoint:
        (folder / "checkpoints" / checkpoint).mkdir(parents=True)
    if word:
        write_ended(folder, number, Ended(75, "stopped", newest_checkpoint(folder)))


def test_attempts_that_get_nowhere_end_the_chain(tmp_path: Path) -> None:
    attempt(tmp_path, 1, "step_000010")
    assert going_in_circles(tmp_path, 2) == ""
    attempt(tmp_path, 2)
    assert going_in_circles(tmp_path, 3) == ""
    attempt(tmp_path, 3)
    assert "no checkpoint newer than step_000010" in going_in_circles(tmp_path, 4)
    attempt(tmp_path, 4, "step_000020")  # somebody went on anyway, and it helped
    assert going_in_circles(tmp_path, 5) == ""


def test_attempts_that_are_killed_without_a_word_count_as_well(tmp_path: Path) -> None:
    attempt(tmp_path, 1, word=False)
    assert going_in_circles(tmp_path, 2) == ""
    attempt(tmp_path, 2, word=False)
    assert "no checkpoint at all" in going_in_circles(tmp_path, 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4", 4), ("03:04", 184), ("02:03:04", 7384), ("1-02:03:04", 93784), ("UNLIMITED", None)],
)
def test_times_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert read_time(text) == seconds


def test_limits_are_whole_minutes() -> None:
    assert [minutes(s) for s in (1, 60, 61, 7200)] == [1, 1, 2, 120]
