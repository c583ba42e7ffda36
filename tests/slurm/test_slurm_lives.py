"""How a run goes on where jobs are not requeued: by a successor, by hand, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_jobs import SlurmRun, works

pytestmark = pytest.mark.timeout(480)  # of a busy machine: what hangs ends
Submit = Callable[..., SlurmRun]
# SLURM's own signal comes as one that means nothing here: the run must look at the clock itself.
SITE = 'again = "successor"\ntime = "60s"\nnotice = "20s"\noptions = ["--signal=B:CONT@5"]\n'


def test_a_run_looks_at_the_clock_itself_and_goes_on_as_another_job_or_by_hand(
    submit: Submit, net: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    run = submit(net, "--nodes", "1", "--site", str(site))
    works(run)
    run.until(lambda: run.attempt() == 2, what="a successor, before the time limit")
    first = json.loads((run.folder / "attempts" / "1" / "outcome.json").read_bytes())
    assert first["text"] == "asked to stop (SIGUSR2)"
    assert first["code"] == 75
    assert len(run.lives()) == 2
    assert f"job {run.lives()[1]} goes on with it" in run.output()
    works(run, 2)
    run.cancel()  # the job that is there now: its number was noted by the one before
    run.until(lambda: not run.processes(), what="no process is left")

    run.bin("resume", str(run.folder))  # two attempts, and no checkpoint came of them
    run.until(lambda: run.state(run.lives()[2]) == "FAILED", what="it is not tried a third time")
    assert run.exit_code(run.lives()[2]) == 93
    assert "the last 2 attempts left no checkpoint at all" in run.output()
    shown = run.bin("resume", str(run.folder), "--anyway", "--dry-run")
    assert "export REALNET_ANYWAY=1" in shown
    run.bin("resume", str(run.folder), "--anyway")
    works(run, 4)
    told = run.cluster.call(
        *(str(Path(__file__).parents[2] / "bin" / "resume"), str(run.folder)), check=False
    )
    assert f"is going on as job {run.lives()[3]}" in told
