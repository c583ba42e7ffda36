"""Warnings and their thresholds, the idle share of roles, and what trackers are given."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError
from realnet.observe.record import Busy
from realnet.roles.face import track as track_module
from realnet.roles.face.idle import WINDOW_STEPS, Idle
from realnet.roles.face.rows import Rows
from realnet.roles.face.track import Point, Points, Track, check_trackers, make_track
from realnet.roles.face.warnings import LIMITS, warnings
from realnet.topology.plan import Plan, RolePlan

DOCS = Path(__file__).parents[2] / "docs" / "vital-signs.md"
HEALTHY = {
    "reward": 0.5, "grad_norm": 1.0, "ess": 0.95, "entropy": 0.5, "kl": 0.01, "groups_equal": 0.2,
    "truncated": 0.0, "tokens_masked": 0.0, "clip_fraction": 0.05, "ratio_tail": 0.001,
    "groups": 32.0, "groups_unfit": 0.0, "unscored": 0.0, "skipped": 0.0, "tokens_trained": 100.0,
}  # fmt: skip


def told(*changes: dict[str, float], before: int = 12) -> list[str]:
    """Return the warnings after healthy steps and then one step for each of these changes."""
    rows = Rows()
    for step, change in enumerate([*([{}] * before), *changes], start=1):
        row = {"actor": "trainer/0", "time_s": float(step), "step": step, **HEALTHY, **change}
        rows.add("metrics", row)
    return warnings(rows, {"max_age": 1, "max_tokens": 56})


# ------------------------------------------------------------ warnings

BEYOND = {
    "equal groups": ({"groups_equal": 0.8}, {"groups_equal": 0.79}, "80 % of groups have equal"),
    "dropped groups": ({"groups_unfit": 128.0}, {"groups_unfit": 127.0}, "drops 80 % of groups"),
    "truncated": ({"truncated": 0.3}, {"truncated": 0.29}, "30 % of answers are cut at max_tokens"),
    "too old": ({"tokens_masked": 0.1}, {"tokens_masked": 0.09}, "older than max_age = 1"),
    "effective samples": ({"ess": 0.49}, {"ess": 0.5}, "effective sample size 49 %"),
    "ratio tail": ({"ratio_tail": 0.05}, {"ratio_tail": 0.049}, "5 % of tokens are over twice"),
    "generator KL": ({"kl": 0.2}, {"kl": 0.19}, "KL 0.20 between generator and trainer"),
    "clipped": ({"clip_fraction": 0.3}, {"clip_fraction": 0.29}, "30 % of tokens are clipped"),
    "not scored": ({"unscored": 1.0}, {"unscored": 0.0}, "1 answers a step could not be scored"),
    "entropy floor": ({"entropy": 0.0049}, {"entropy": 0.06}, "answers hardly vary any more"),
    "entropy collapse": ({"entropy": 0.049}, {"entropy": 0.05}, "entropy collapsed from 0.50 to"),
    "gradient jump": ({"grad_norm": 10.0}, {"grad_norm": 9.9}, "gradient norm 10, usually 1"),
    "skipped steps": ({"skipped": 2.0}, {"skipped": 0.0}, "2 steps were skipped of late"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_each_warning_comes_at_its_threshold_and_not_before(name: str) -> None:
    beyond, before, words = BEYOND[name]
    repeats = 1 if name == "gradient jump" else 5
    assert any(words in text for text in told(*[beyond] * repeats)), told(*[beyond] * repeats)
    assert told(*[before] * repeats) == []


def test_one_odd_batch_warns_of_nothing() -> None:
    assert told({"groups_equal": 1.0}, {}, {}) == []
    assert told({"truncated": 1.0}, {}, {}, {}) == []


def test_the_reason_of_no_signal_is_told_when_it_is_clear() -> None:
    hard, easy = {"groups_equal": 0.9, "reward": 0.01}, {"groups_equal": 0.9, "reward": 0.97}
    assert "(the problems are too hard)" in told(*[hard] * 5)[0]
    assert "(the problems are too easy)" in told(*[easy] * 5)[0]


def test_entropy_may_fall_when_the_answers_are_known() -> None:
    assert told(*[{"entropy": 0.02, "reward": 0.95}] * 5) == []
    assert "at reward 0.50" in told(*[{"entropy": 0.02}] * 5)[0]


def test_skipped_steps_are_told_for_a_while_and_over_restarts() -> None:
    assert told({"skipped": 1.0}, *[{"skipped": 1.0}] * 19) != []
    assert told({"skipped": 1.0}, *[{"skipped": 1.0}] * 20) == []
    assert told({"skipped": 1.0}, before=0)[0].startswith("1 steps were skipped")
    again = [{"skipped": 3.0}] * 21 + [{"skipped": 0.0}, {"skipped": 1.0}]  # a new trainer counts
    assert "1 steps were skipped" in told(*again)[0]


def test_the_documented_thresholds_are_those_that_hold() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-zA-Z ]+) \| (`\w+` \| [^|]+\| [^|]+) \|", text, re.M))
    assert set(LIMITS) <= set(rows)
    for name, limit in LIMITS.items():
        sign, start, meaning = (part.strip() for part in rows[name].split("|"))
        assert sign == f"`{limit.sign}`"
        assert float(re.findall(r"[\d.]+", start)[0]) == limit.value
        assert meaning == limit.meaning


# ------------------------------------------------------------ idle


def role(name: str, count: int = 1) -> RolePlan:
    return RolePlan(name, name, count, {})


def test_idle_is_what_members_did_not_compute_over_the_last_steps() -> None:
    roles = {"generator": role("generator", 2), "trainer": role("trainer")}
    idle = Idle(Plan("x", "x", "", "", roles, (), (), (), {}, {}))
    busy = Busy()
    assert idle.step(busy, 10.0) == {}
    busy.add("generator/0", [(10.0, 14.0, "generate")])
    busy.add("generator/1", [(0.0, 12.0, "generate")])
    busy.add("trainer/0", [(13.0, 14.0, "train")])
    busy.add("head/0", [(10.0, 14.0, "x")])
    shares = idle.step(busy, 14.0)
    assert shares == {"generator": pytest.approx(1 - 6 / 8), "trainer": pytest.approx(0.75)}
    for step in range(WINDOW_STEPS):
        shares = idle.step(busy, 15.0 + step)
    assert shares == {"generator": 1.0, "trainer": 1.0}  # the window has moved on


# ------------------------------------------------------------ trackers


def test_rows_become_points_with_a_place_for_each_value() -> None:
    points = Points()
    row = {"actor": "trainer/0", "time_s": 3.0, "step": 7, "grad_norm": 1.5, "tickets_trained": 9,
           "age_0": 0.75, "age_1": 0.25, "age_mean": 0.25, "no": float("nan")}  # fmt: skip
    point = points.of(row)
    assert point is not None
    assert point.trainer == "trainer/0"
    assert point.values == {
        "train/grad_norm": 1.5, "tickets/trained": 9.0, "age/0": 0.75, "age/1": 0.25,
        "train/age_mean": 0.25,
    }  # fmt: skip
    assert point.ages == {0: 0.75, 1: 0.25}
    speed = points.of({"actor": "generator/1", "time_s": 4.0, "tokens_per_s": 900.0})
    assert speed == Point(7, {"generator/1/tokens_per_s": 900.0}, {})
    held = points.of({"actor": "evaluator/0", "step": 5, "eval/sums/pass@1": 0.5})
    assert held == Point(5, {"eval/sums/pass@1": 0.5}, {})
    warm = points.of({"actor": "trainer/0", "warm_step": 20, "warm_loss": 1.0})
    assert warm == Point(20, {"warm/loss": 1.0}, {})
    assert points.of({"actor": "x/0", "text": "y"}) is None
    other = points.of({"actor": "judge_trainer/0", "step": 1, "grad_norm": 2.0, "tickets_out": 3})
    assert other is not None
    assert other.values == {"judge_trainer/grad_norm": 2.0, "judge_trainer/tickets/out": 3.0}


class Kept:
    """A tracker that keeps what it is given, and fails when asked to."""

    def __init__(self, fail_at: int = -1) -> None:
        self.points: list[Point] = []
        self.closed = threading.Event()
        self._fail_at = fail_at

    def write(self, point: Point) -> None:
        if point.step == self._fail_at:
            raise OSError("no space")
        self.points.append(point)

    def close(self) -> None:
        self.closed.set()


def test_a_tracker_that_fails_is_told_and_the_others_go_on() -> None:
    good, bad, said = Kept(), Kept(fail_at=2), []

    def broken() -> Kept:
        raise RuntimeError("no login")

    makers: dict[str, Any] = {"good": lambda: good, "bad": lambda: bad, "broken": broken}
    track = Track(makers, said.append)
    for step in (1, 2, 3):
        track.row({"actor": "trainer/0", "step": step, "grad_norm": 1.0})
    track.close()
    assert [p.step for p in good.points] == [1, 2, 3]
    assert [p.step for p in bad.points] == [1]
    assert good.closed.is_set()
    assert not bad.closed.is_set()
    assert [text.split(" is given up")[0] for text in said] == ["broken", "bad"]


def test_a_tracker_that_is_not_installed_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(track_module, "PACKAGES", {"tensorboard": "no_such_package_here"})
    with pytest.raises(ConfigError, match=r"pip install 'realnet-rl\[tensorboard\]'"):
        check_trackers(["tensorboard"])
    check_trackers([])
    assert make_track((), Path(), "x", {}, print) is None


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of an event file: length, check of it, bytes, check of them."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def test_tensorboard_gets_every_value_and_forgets_undone_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    said: list[str] = []
    track = make_track(("tensorboard",), tmp_path, "demo", {}, said.append)
    assert track is not None
    for step in (1, 2, 3, 2):  # the trainer went back to step 1 and took 2 again
        track.row({"actor": "trainer/0", "step": step, "grad_norm": 1.0 * step, "age_0": 1.0})
    track.close()
    assert said == []
    values, histograms, starts = [], [], []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        for data in records(path):
            event = Event.FromString(data)
            if event.session_log.status:
                starts.append(event.step)
            for value in event.summary.value:
                if value.tag == "train/grad_norm":
                    values.append((event.step, value.simple_value))
                elif value.HasField("histo"):
                    histograms.append(event.step)
    assert values == [(1, 1.0), (2, 2.0), (3, 3.0), (2, 2.0)]
    assert sorted(histograms) == [1, 2, 2, 3]
    assert starts == [2]  # what came from step 2 on, before this, is purged


@pytest.mark.slow
def test_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    said: list[str] = []
    track = make_track(("wandb",), tmp_path, "demo", {"lr": 1e-3}, said.append)
    assert track is not None
    for step in (1, 2):
        track.row({"actor": "trainer/0", "step": step, "grad_norm": 1.0 * step})
    track.close()
    assert said == []
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    text = written.read_bytes()
    assert b"train/grad_norm" in text
    assert b"lr" in text
