"""The benchmarks of reinforcement learning run, in small; and they can count."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


@pytest.mark.timeout(240)
@pytest.mark.long
def test_asynchrony_in_real_and_in_virtual_time(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, BENCH / "rl.py", "async", "--quick", "--faster", "4"),
            *("--folder", tmp_path),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "rl-async.json").read_text())["rows"]
    assert [(r["virtual"], r["eta"]) for r in found] == [
        (v, e) for v in (False, True) for e in (0, 1, 2)
    ]
    assert found[0]["age_max"] == found[3]["age_max"] == 0.0  # exactly synchronous
    assert found[5]["step_s"] < found[3]["step_s"]  # in virtual time, which repeats
    assert json.loads((tmp_path / "rl.json").read_text()).keys() >= {"bound_fraction_4"}


def row(eta: int, step_s: float, *, generators: int = 4, virtual: bool = True) -> dict[str, Any]:
    return {
        "generators": generators,
        "slots": 8,
        "virtual": virtual,
        "over_age": "mask",
        "eta": eta,
        "step_s": step_s,
        "bound": 1 / step_s,
    }


def test_speed_up_is_over_synchronous_runs_of_the_same_size_and_kind(module: Any) -> None:
    rl_async = module("rl_async")
    rows = [row(0, 8.0), row(1, 4.0), row(2, 2.0), row(0, 6.0, virtual=False)]
    rows += [row(2, 5.0, generators=32)]
    found = rl_async.figures({"rows": rows})
    assert found["async_speedup_eta1"] == 2.0
    assert found["async_speedup_eta2"] == 4.0
    assert found["bound_fraction_4"] == 0.5
    assert found["bound_fraction_32"] == 0.2
    assert found["bound_fraction_256"] is None
    real = [row(2, 3.0, virtual=False)]
    assert rl_async.figures({"rows": rows + real})["async_speedup_eta2"] == 2.0


def test_time_to_an_accuracy_lies_on_the_line_between_measures(module: Any) -> None:
    learning = module("rl_learning")
    curve = [learning.Point(0, 0.0, 0.1), learning.Point(5, 10.0, 0.5), learning.Point(10, 20, 0.9)]
    assert learning.seconds_to(curve, 0.7) == pytest.approx(15.0)
    assert learning.seconds_to(curve, 0.95) is None
    found = module("rl_trl").figures(
        {"rounds": [{"realnet": curve, "trl": [(0, 0.0, 0.1), (5, 60.0, 0.75)]}]}
    )
    assert found["vs_trl_seconds"] == pytest.approx(60 / 16.25)


class Stop(Exception):
    """What cuts a benchmark off."""


def test_a_part_that_was_cut_off_goes_on_where_it_was(module: Any, tmp_path: Path) -> None:
    """Rounds that were kept are not run again; a part that is done is left alone."""
    rl, rounds = module("rl"), module("rl_rounds")
    ran: list[tuple[str, int]] = []
    left = [3]

    def train(name: str, base: Path, work: Path, seed: int) -> list[Any]:
        if not left[0]:
            raise Stop
        left[0] -= 1
        ran.append((name, seed))
        return [(0, 0.0, 0.1), (5, 10.0, 0.9)]

    def measure(arguments: Any, console: Any, before: Any, keep: Any) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rounds, "make_base", lambda folder, seed: folder)
            return rounds.run_rounds(("a", "b"), train, arguments, console, before, keep)

    part = types.SimpleNamespace(measure=measure)
    console = Console(quiet=True)

    def run(*, goes_on: bool) -> bool:
        told = argparse.Namespace(goes_on=goes_on, folder=tmp_path, quick=False, rounds=2)
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(rl.PARTS, "modes", part)
            return bool(rl.run_part("modes", told, console))

    with pytest.raises(Stop):
        run(goes_on=False)
    assert ran == [("a", 0), ("b", 0), ("b", 1)]  # the second round goes the other way about
    left[0] = 2
    assert run(goes_on=True)
    assert ran[3:] == [("b", 1), ("a", 1)]  # half a round compares nothing: it ran again, whole
    assert not run(goes_on=True)
    kept = json.loads((tmp_path / "rl-modes.json").read_text())
    assert kept["done"]
    assert len(kept["rounds"]) == 2


def test_a_fall_is_from_the_best_before_it(module: Any) -> None:
    report = module("stability_report")
    run = {"evals": [{"greedy": g, "p1": g} for g in (0.1, 0.9, 0.7, 0.8)]}
    assert report.fall(run) == pytest.approx(0.2)


@pytest.mark.timeout(240)
def test_one_run_of_the_stability_study_has_the_ages_of_admission(
    module: Any, tmp_path: Path
) -> None:
    study = module("stability_run")
    demo = module("demo_policy").read_demo()
    study.learner_of(demo, {}, 0).save(tmp_path / "warm")
    setting = study.Setting("naive", {"loss": {"proximal": "behave"}}, 2, 0, 0, 4)
    found = study.run(setting, tmp_path / "warm")
    assert [step["age"] for step in found["curve"]] == [0.0, 1.0, 2.0, 2.0]
    assert all(step["tokens_masked"] == 0.0 for step in found["curve"])
    assert json.loads(json.dumps(found)) == found
