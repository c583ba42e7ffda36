"""What bin/submit and bin/resume do with what SLURM answers; programs here answer as SLURM's do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_net import topology as small_net

from realnet.errors import RealnetError
from realnet.slurm import commands
from realnet.slurm.records import Job, note_job, read_jobs
from realnet.slurm.submit import main


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.toml"
    path.write_text(small_net(tmp_path))
    return path


class Slurm:
    """Programs that answer as SLURM's do; each answer is a line of shell."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.answers("sinfo", 'echo "main|main*|4|8|16000|gpu:4"')

    def answers(self, program: str, shell: str) -> None:
        path = self.folder / program
        path.write_text(f"#!/bin/sh\n{shell}\n")
        path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("REALNET_SHARED_TMP", "1")
    return Slurm(tmp_path / "bin")


def called(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output


def test_of_a_submission_that_slurm_refuses_nothing_is_left(
    net: Path, tmp_path: Path, slurm: Slurm
) -> None:
    runs = tmp_path / "runs"
    words = ("submit", str(net), "--runs", str(runs), "--name", "a")
    refuse = 'echo "Invalid account" >&2; exit 1'
    slurm.answers("sbatch", f'case "$1" in --test-only) exit 0;; esac; {refuse}')
    assert "Invalid account" in called(*words, code=1)
    assert not (runs / "a").exists()
    slurm.answers("sbatch", 'case "$1" in --parsable) echo 7;; esac')
    assert "job 7, 1 nodes" in called(*words)  # under the same name
    assert "exists" in called(*words, code=2)
    assert [j.number for j in read_jobs(runs / "a")] == [7]


def test_a_submission_that_slurm_does_not_answer_is_kept(
    net: Path, tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there: the job notes its number when it begins."""
    slurm.answers("sbatch", 'case "$1" in --parsable) exec sleep 60;; esac')
    call = commands.call

    def impatient(words: Sequence[str], *, text: str = "", limit_s: float = 60.0) -> str:
        return call(words, text=text, limit_s=0.2 if "--parsable" in words else limit_s)

    monkeypatch.setattr(commands, "call", impatient)
    runs = tmp_path / "runs"
    told = called("submit", str(net), "--runs", str(runs), "--name", "a", code=1)
    assert "has not answered in 0.2 s" in told
    assert "squeue --me" in told
    assert (runs / "a" / "job.sh").is_file()


def test_two_who_submit_at_the_same_moment_have_two_runs(
    net: Path, tmp_path: Path, slurm: Slurm
) -> None:
    runs = tmp_path / "runs"
    # The other one takes the name while ours is being tried.
    slurm.answers(
        "sbatch",
        f'case "$1" in --test-only) mkdir -p "{runs}/net";; *) cat >/dev/null; echo 8;; esac',
    )
    assert f"{runs}/net-2: job 8" in called("submit", str(net), "--runs", str(runs))
    assert f"{runs}/net-2" in (runs / "net-2" / "job.sh").read_text()
    assert list((runs / "net").iterdir()) == []


def test_resume_waits_for_a_job_that_is_ending(
    net: Path, tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM calls COMPLETING what comes to its end, and what begins another life as well."""
    monkeypatch.setattr("realnet.slurm.queue.POLL_S", 0.0)
    slurm.answers("sbatch", 'case "$1" in --parsable) echo 7;; esac')
    runs = tmp_path / "runs"
    called("submit", str(net), "--runs", str(runs), "--name", "a")
    looks = tmp_path / "looks"

    def resumed(last: str, code: int) -> str:
        looks.write_text("")
        slurm.answers(
            "squeue",
            f'echo >>"{looks}"\n[ $(wc -l <"{looks}") -gt 3 ] && echo "7|7|{last}" '
            '|| echo "7|7|COMPLETING"',
        )
        slurm.answers("sbatch", 'case "$1" in --parsable) echo 9;; esac')
        return called("resume", "a", "--runs", str(runs), code=code)

    assert "a is going on as job 7" in resumed("PENDING", 1)
    assert "a: job 9" in resumed("CANCELLED", 0)
    assert len(looks.read_text().splitlines()) == 4


def test_cancel_ends_what_a_run_submits_while_it_is_ended(
    net: Path, tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realnet.slurm.submit.POLL_S", 0.0)
    slurm.answers("sbatch", 'case "$1" in --parsable) echo 7;; esac')
    runs = tmp_path / "runs"
    called("submit", str(net), "--runs", str(runs), "--name", "a")
    note_job(runs / "a", Job("worker", 8, 1, 1))
    looks, jobs = tmp_path / "looks", runs / "a" / "jobs.jsonl"
    looks.write_text("")
    # At the second look 7 is ending and 8 has ended; 7 has submitted 9. Then 7 is started again.
    slurm.answers(
        "squeue",
        f"""echo >>"{looks}"; case $(wc -l <"{looks}") in
        1) echo "7|7|RUNNING"; echo "8|8|PENDING"
           echo '{{"what":"run","number":9}}' >>"{jobs}";;
        2) echo "7|7|COMPLETING"; echo "8|8|CANCELLED"; echo "9|9|PENDING";;
        3) echo "7|7|PENDING"; echo "9|9|CANCELLED";;
        *) echo "7|7|CANCELLED"; echo "9|9|CANCELLED";; esac""",
    )
    slurm.answers("scancel", f'echo "$@" >>"{tmp_path}/scancel"')
    assert "a: cancelled 8, 7, 9" in called("cancel", "a", "--runs", str(runs))
    assert (tmp_path / "scancel").read_text().split() == ["8", "7", "9", "7"]
    assert "a has no job" in called("cancel", "a", "--runs", str(runs))


def test_members_are_asked_for_by_the_name_of_a_role_that_may_have_more(
    net: Path, tmp_path: Path, slurm: Slurm
) -> None:
    slurm.answers("sbatch", 'case "$1" in --parsable) echo 7;; esac')
    runs = tmp_path / "runs"
    called("submit", str(net), "--runs", str(runs), "--name", "a")
    slurm.answers("squeue", 'echo "7|7|RUNNING"')
    join = ("join", "a", "--runs", str(runs), "--role")
    assert "a has no role 'wroker'. Did you mean \"worker\"?" in called(*join, "wroker", code=2)
    assert "[roles.worker] of a is not elastic: it needs max = ..." in called(
        *join, "worker", code=2
    )
    assert "is not in the range" in called(*join, "worker", "--count", "0", code=2)


def test_what_is_shielded_outlives_the_signal_that_ends_a_job() -> None:
    words = ["sh", "-c", "kill -TERM $$; echo done"]
    assert commands.call(words, shielded=True) == "done"
    with pytest.raises(RealnetError):
        commands.call(words)
