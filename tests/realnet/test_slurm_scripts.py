"""What is submitted to SLURM, from a topology and a site file; needs no SLURM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_net import topology as small_net

from realnet.errors import ConfigError
from realnet.slurm.commands import read_time
from realnet.slurm.records import (
    Ended,
    Job,
    going_in_circles,
    newest_checkpoint,
    note_begin,
    note_job,
    read_jobs,
    write_ended,
)
from realnet.slurm.script import minutes
from realnet.slurm.site import read_site
from realnet.slurm.submit import main

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
        "module load cuda/12.4",
    ):
        assert line in script.splitlines(), line
    assert ",WANDB_MODE" in script
    assert script.splitlines()[-2].startswith("exec ")  # signals reach Python itself
    assert "worker/0 (GPU 0)" in shown
    assert not (tmp_path / "runs").exists()


def test_a_site_file_is_read_as_strictly_as_a_topology(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('partitoin = "main"\n')
    with pytest.raises(ConfigError, match="partition"):
        read_site(path)
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        read_site(tmp_path / "nowhere.toml")


def test_the_site_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "slurm.md").read_text()
    example = page[page.index('    partition = "batch"') : page.index("`make test-slurm`")]
    path = tmp_path / "site.toml"
    path.write_text(example)
    site, where = read_site(path)
    assert where == path
    assert site.again == "requeue"
    assert set(site.__struct_fields__) <= {
        *example.split(),
        "python",
        "qos",
        "constraint",
        "exclude",
    }


def test_a_topology_that_does_not_fit_is_told(net: Path) -> None:
    shown = dry(net, "--nodes", "1", "--set", 'roles.worker.place="source"', code=2)
    assert "roles.worker" in shown


def test_jobs_are_noted_before_and_after_they_are_submitted(tmp_path: Path) -> None:
    note_job(tmp_path, Job("run"))
    assert read_jobs(tmp_path) == []  # tried, and nobody knows its number
    note_job(tmp_path, Job("run", 7))
    note_job(tmp_path, Job("worker", 8, 3, 2))
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write(b'{"what": "to')  # a torn line
    assert [(j.what, j.number, j.first, j.count) for j in read_jobs(tmp_path)] == [
        ("run", 7, 0, 0),
        ("worker", 8, 3, 2),
    ]


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
