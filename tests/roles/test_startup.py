"""`realnet startup`: which part of a run's beginning took how long."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from realnet.errors import RunFolderError
from realnet.observe.record import Record
from realnet.observe.startup import read_startup
from realnet.roles.verbs.startup import moments


def begun(folder: Path) -> Record:
    (folder / "attempts" / "1").mkdir(parents=True)
    record = Record(folder, 100.0, 1)
    for part, at_s in (
        ("agents", 101.0),
        ("preflight", 101.5),
        ("processes", 104.0),
        ("processes", 109.0),
    ):
        record.startup.over(part, at_s)
    row = {"version": 0, "bytes": 8}
    for at_s in (104.5, 105.5):
        record.write("trainer/0", "metrics", at_s, {"warm_step": at_s})
    record.write("parameter_server/0", "metrics", 106.0, row)
    for at_s in (110.0, 112.0):
        record.write("trainer/0", "metrics", at_s, {"loss": 1.0})
    record.close()
    return record


def test_parts_are_told_in_order_from_the_heads_start(tmp_path: Path) -> None:
    begun(tmp_path)
    assert moments(tmp_path, 1) == [
        ("head", 0.0),
        ("agents", 1.0),
        ("preflight", 1.5),
        ("processes", 4.0),  # the first time, not when one was started again
        ("warm", 5.5),
        ("version", 6.0),
        ("step", 10.0),
    ]


def test_under_slurm_they_count_from_the_submission(tmp_path: Path) -> None:
    begun(tmp_path)
    began = read_startup(tmp_path, 1)
    assert began is not None
    job = {"what": "run", "number": 7, "time_s": began.wall_s - 3.0}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job) + "\n")
    mark = tmp_path / "attempts" / "1" / "begun"
    mark.touch()
    os.utime(mark, (began.wall_s - 1.0, began.wall_s - 1.0))
    told = {part: round(at_s, 3) for part, at_s in moments(tmp_path, 1)}
    assert list(told.items())[:3] == [("job", 2.0), ("head", 3.0), ("agents", 4.0)]
    assert told["step"] == 13.0


def test_a_run_that_did_not_get_so_far_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not say how attempt 2 began"):
        moments(tmp_path, 2)
