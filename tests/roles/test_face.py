"""The face: rows sorted, overlap measured, words for people, and the live view."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from realnet.observe.record import Busy
from realnet.roles.face import words
from realnet.roles.face.overlap import clip, measure
from realnet.roles.face.rows import Measured, Rows, older
from realnet.roles.face.view import RLView
from realnet.roles.face.warnings import warnings
from realnet.topology.plan import Plan

SHARED: dict[str, dict[str, Any]] = {
    "policy": {"policy": {"max_age": 1, "max_tokens": 56}},
    "tasks": {"sums": {"use": "eval", "limit": 192, "temperature": 1.0, "samples": 1}},
    "run": {"": {"until": {"steps": 20, "time": None}}},
}
PLAN = Plan("demo", "demo", "", "", {}, (), (), (), SHARED, {})


def step_row(step: int, time_s: float, attempt: int = 1, **values: float) -> dict[str, Any]:
    signs = {"reward": 0.5, "grad_norm": 1.0, "ess": 0.9, "entropy": 0.3, "kl": 0.01, "age_0": 0.7}
    signs |= {"age_1": 0.3, "response_tokens": 31.0, "groups_equal": 0.2}
    row = {"time_s": time_s, "attempt": attempt, "actor": "trainer/0", "step": step}
    return {**row, **signs, **values}


def eval_row(step: int, share: float, time_s: float = 1.0, attempt: int = 1) -> dict[str, Any]:
    row = {"time_s": time_s, "attempt": attempt, "actor": "evaluator/0", "step": step}
    return {**row, "eval/sums/pass@1": share, "eval/sums/length": 30.0}


def counted(**states: float) -> dict[str, float]:
    return {f"tickets_{state}": float(count) for state, count in states.items()}


# ------------------------------------------------------------ overlap


def test_overlap_is_measured_inside_the_window_only() -> None:
    generator = [(0.0, 4.0), (5.0, 12.0), (30.0, 40.0)]
    trainer = [(0.0, 9.0), (11.0, 14.0)]  # its warm start reaches into the window
    found = measure(generator, trainer, (8.0, 18.0))
    assert found is not None
    assert found == (10.0, 4.0, 4.0, 2.0)
    assert found.share == pytest.approx(0.2)
    assert "both busy 20 % of the wall time" in str(found)
    assert "generator busy 40 %, trainer busy 40 %" in str(found)


def test_there_is_no_overlap_without_two_steps() -> None:
    assert measure([(0.0, 1.0)], [(0.0, 1.0)], None) is None
    assert measure([(0.0, 1.0)], [(0.0, 1.0)], (3.0, 3.0)) is None
    rows = Rows()
    rows.add("metrics", step_row(1, 4.0))
    assert rows.window() is None


def test_clip_merges_and_cuts() -> None:
    assert clip([(5.0, 7.0), (0.0, 3.0), (2.0, 4.0), (9.0, 9.0)], 1.0, 6.0) == [(1, 4), (5, 6)]


# ------------------------------------------------------------ rows


def test_undone_steps_and_their_evaluations_are_left_out() -> None:
    rows = Rows()
    for step in range(1, 8):
        rows.add("metrics", step_row(step, float(step), reward=0.1))
    rows.add("metrics", eval_row(0, 0.1))
    rows.add("metrics", eval_row(7, 0.9))
    rows.add("metrics", eval_row(5, 0.6, attempt=2))
    for step in (6, 7):
        rows.add("metrics", step_row(step, float(step), attempt=2, reward=0.8))
    assert [step for step, _ in rows.curve("reward")] == [1, 2, 3, 4, 5, 6, 7]
    assert [value for _, value in rows.curve("reward")] == [0.1] * 5 + [0.8] * 2
    assert rows.measured("sums") == [Measured(0, 0.1), Measured(5, 0.6)]
    assert rows.window() == (6.0, 7.0)
    assert rows.wall_s == 7.0 + 7.0
    assert [step for step, _ in rows.step_times()] == [2, 3, 4, 5, 7]


def test_rows_that_make_no_sense_are_passed_over() -> None:
    rows = Rows()
    for row in (
        3,
        None,
        [],
        {},
        {"step": "7", "reward": 1},
        {"step": 10**400},
        {"step": 1, "reward": float("nan")},
    ):
        rows.add("metrics", row)
        rows.add("event", row)
    rows.add("metrics", step_row(1, 1.0, kl=float("inf")))
    assert rows.curve("kl") == []
    assert rows.step == 1


def test_a_step_without_gradient_has_no_means_over_trained_tokens() -> None:
    rows = Rows()
    rows.add("metrics", step_row(1, 1.0, ess=0.0, tokens_trained=0.0))
    rows.add("metrics", step_row(2, 2.0, tokens_trained=9.0))
    assert rows.curve("ess") == [(2.0, 0.9)]
    assert [step for step, _ in rows.curve("reward")] == [1, 2]
    assert warnings(rows, {}) == []


def test_ages_that_no_token_has_are_not_in_a_row() -> None:
    assert older({"age_0": 0.25, "age_1": 0.75}) == 0.75
    assert older({"age_1": 1.0}) == 1.0
    assert older({"age_mean": 1.0}) is None


def test_speeds_are_summed_over_generators_and_put_to_the_step_they_belong_to() -> None:
    rows = Rows()
    for actor, time_s, speed in (("g/0", 1.0, 100.0), ("g/1", 2.0, 50.0), ("g/0", 4.0, 300.0)):
        rows.add("metrics", {"time_s": time_s, "actor": actor, "tokens_per_s": speed, "version": 1})
    rows.add("metrics", step_row(1, 3.0))
    rows.add("metrics", step_row(2, 5.0))
    assert rows.speed_curve() == [(1.0, 150.0), (2.0, 300.0)]
    assert rows.tokens_per_s() == 350.0


# ------------------------------------------------------------ words


def test_the_ledger_says_whether_it_balances() -> None:
    rows = Rows()
    rows.add("metrics", step_row(1, 1.0, **counted(issued=10, trained=7, leased=3)))
    text = words.balance(rows.tickets())
    assert text.startswith("issued 10 = 7 trained + 3 leased")
    assert text.endswith("(balanced)")
    assert "DOES NOT BALANCE" in words.balance({"issued": 10, "trained": 7})
    assert words.balance({}) == ""


def test_warnings_name_what_is_wrong() -> None:
    rows = Rows()
    for step in range(1, 8):
        signs = {"groups_equal": 0.82, "reward": 0.02, "truncated": 0.4, "tokens_masked": 0.2}
        signs |= {"groups": 32.0, "groups_unfit": 608.0}
        rows.add("metrics", step_row(step, step, **signs, grad_norm=50.0 if step == 7 else 1.0))
    text = "\n".join(warnings(rows, {"max_age": 1, "max_tokens": 56}))
    assert "82 % of groups have equal rewards: no signal (the problems are too hard)" in text
    assert "40 % of answers are cut at max_tokens = 56" in text
    assert "20 % of tokens are older than max_age = 1" in text
    assert "gradient norm 50, usually 1" in text
    assert "dynamic sampling drops 95 % of groups" in text


def test_a_healthy_run_has_no_warnings() -> None:
    rows = Rows()
    for step in range(1, 30):
        rows.add("metrics", step_row(step, step, tokens_trained=100.0))
    assert warnings(rows, {}) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(48, "48 s"), (161, "2 min 41 s"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_sparks_have_a_floor_and_a_width() -> None:
    assert words.spark([0.0, 1.0], low=0.0) == "▁█"
    assert words.spark([2.0, 2.0]) == "▁▁"
    assert words.spark([1.0]) == ""
    assert len(words.spark([float(i) for i in range(100)], width=12)) == 12


# ------------------------------------------------------------ the view


class Scene:
    """A view on a console that is no terminal (or is), with a head and a clock by hand."""

    def __init__(self, terminal: bool = False, folder: Path | None = None) -> None:
        self.out = io.StringIO()
        console = Console(file=self.out, force_terminal=terminal, width=200, highlight=False)
        self.now_s = 1000.0
        self.view = RLView(console, now=lambda: self.now_s)
        self.busy = Busy()
        self.status: dict[str, Any] = {}
        head: Any = SimpleNamespace(
            record=SimpleNamespace(busy=self.busy, started_s=1000.0),
            status=self.status,
            run_info=SimpleNamespace(attempt=2 if folder else 1, folder=folder),
            supervisor=SimpleNamespace(slots={"trainer/0": SimpleNamespace(state="up")}),
        )
        self.view.start(PLAN, head)

    def lines(self) -> list[str]:
        self.view.draw()
        text = self.out.getvalue()
        self.out.seek(0)
        self.out.truncate()
        return text.splitlines()

    def step(self, step: int, **values: float) -> list[str]:
        self.view.row("metrics", step_row(step, 2.0 * step, **values))
        return self.lines()


def test_without_a_terminal_there_is_a_line_every_five_steps() -> None:
    scene = Scene()
    assert scene.lines() == []
    told = [step for step in range(1, 21) if scene.step(step)]
    assert told == [1, 5, 10, 15, 20]
    assert scene.lines() == []


def test_a_slow_run_has_a_line_when_half_a_minute_is_over() -> None:
    scene = Scene()
    scene.step(1)
    assert scene.step(2) == []
    scene.now_s += 40.0
    assert len(scene.step(3)) == 1


def test_the_line_has_the_figures_and_the_time_left() -> None:
    scene = Scene()
    scene.view.row("metrics", eval_row(0, 0.25))
    for step in range(1, 5):
        scene.step(step)
    (line,) = scene.step(5, groups_equal=1.0)
    assert line.startswith("   10.0s  trainer/0            step 5/20  reward 0.50  sums 0.25")
    assert "ESS 90 %" in line
    assert "off-policy 30 %" in line
    assert "30 s left" in line


def test_a_resumed_trainer_is_told_of_again() -> None:
    scene = Scene()
    for step in range(1, 15):
        scene.step(step)
    told = [step for step in range(9, 16) if scene.step(step)]
    assert told == [10, 15]


def test_a_resumed_run_knows_what_came_before(tmp_path: Path) -> None:
    before = [eval_row(0, 0.1), *(step_row(step, float(step)) for step in range(1, 9))]
    text = "".join(json.dumps(row) + "\n" for row in before)
    (tmp_path / "metrics.jsonl").write_text(text)
    scene = Scene(folder=tmp_path)
    scene.view.row("metrics", eval_row(10, 0.7, attempt=2))
    scene.view.row("metrics", step_row(10, 3.0, attempt=2))
    assert scene.view.summary()[0] == "sums pass@1 0.10 -> 0.70 (192 held-out problems, T = 1)"
    assert "10 steps, 11 s in 2 attempts" in scene.view.summary()


def test_events_are_lines_and_a_warm_start_is_told_at_intervals() -> None:
    scene = Scene()
    scene.view.row("event", {"time_s": 3.0, "actor": "head/0", "text": "[red]hello", "attempt": 1})
    assert scene.lines() == ["    3.0s  head/0               [red]hello"]
    scene.status["trainer/0"] = SimpleNamespace(doing={"trainer/0": "warm start 20/480"}, waits={})
    assert scene.lines() == []
    scene.now_s += 11.0
    assert scene.lines() == ["   11.0s  trainer/0            warm start 20/480"]
    scene.now_s += 11.0
    assert scene.lines() == []


def test_the_summary_has_gain_time_overlap_and_ledger() -> None:
    scene = Scene()
    view = scene.view
    done = {"text": "sums pass@1 0.15 (96 problems) at step 0", "task": "sums", "step": 0}
    view.row("event", {"time_s": 1.0, "actor": "evaluator/0", "attempt": 1, **done})
    view.row("metrics", eval_row(0, 0.15))
    view.row("metrics", eval_row(20, 0.74))
    scene.busy.add("trainer/0", [(1000.0, 1010.0, "warm start"), (1015.0, 1020.0, "train")])
    scene.busy.add("generator/0", [(1010.0, 1018.0, "generate")])
    scene.busy.add("generator/1", [(1014.0, 1019.0, "generate")])
    for step, time_s in ((19, 10.0), (20, 20.0)):
        view.row("metrics", step_row(step, time_s, **counted(issued=4, trained=2, leased=2)))
    closed = {"issued": 5, "trained": 3, "dropped": 2}
    view.row("event", {"time_s": 21.0, "actor": "trainer/0", "text": "", "attempt": 1, **closed})
    assert view.summary() == [
        "sums pass@1 0.15 -> 0.74 (96 held-out problems, T = 1)",
        "20 steps, 21 s",
        "generation and training were both busy 40 % of the wall time between the first and the "
        "last step; generator busy 90 %, trainer busy 50 %",
        "ledger: issued 5 = 3 trained + 2 dropped (balanced)",
    ]


def test_a_run_without_steps_has_no_summary() -> None:
    assert Scene().view.summary() == []


def test_in_a_terminal_vital_signs_warnings_and_roles_are_shown() -> None:
    scene = Scene(terminal=True)
    scene.status["trainer/0"] = SimpleNamespace(
        doing={"trainer/0": "step 6"},
        waits={"trainer/0": (("3 of 32 scored groups", 2.0),)},
        ports=lambda actor: {},
    )
    scene.lines()
    for step, share in ((1, 0.2), (2, 0.6)):
        scene.view.row("metrics", eval_row(step, share))
    values = {**counted(issued=4, trained=4), "branch": 1.0, "weight_max": 2.5, "truncated": 0.5}
    scene.step(4)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(scene.step(5, **values)))
    scene.view.stop()
    for expected in (
        "step 5/20",
        "sums",
        "0.60 ▃█",
        "max 2.50, ESS 90 %",
        "1.5",
        "issued 4 = 4 trained",
        "! ",
        "waits 2s for 3 of 32 scored groups",
    ):
        assert expected.replace("2.50", "2.5") in text
