"""The report: what it shows of a run, of half a run, of no run, and of hostile text."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from realnet.roles.face import figures, words
from realnet.roles.face.charts import Series, line_chart, stacked_chart, thin, ticks, trend
from realnet.roles.face.report import main, write_report
from realnet.roles.face.rows import Rows
from realnet.roles.face.story import Story, shareable
from realnet.roles.face.strips import Lane, strip
from realnet.roles.face.words import percent
from realnet.topology.plan import Plan, RolePlan, write_plan

HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "br", "line", "rect", "circle", "polygon", "path", "i"}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def a_run(folder: Path, steps: int = 30) -> Path:
    """Write the folder of a run that was resumed once, in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    shared: dict[str, dict[str, Any]] = {
        "policy": {"policy": {"model": "new:llama", "max_age": 1}},
        "tasks": {"sums": {"temperature": 1.0, "limit": 192, "samples": 1}},
        "run": {"": {"until": {"steps": steps}}},
    }
    roles = {"trainer": RolePlan("trainer", "trainer", 1, {"lr": 4e-4})}
    write_plan(Plan("demo-2", "demo", "", "", roles, (), (), (), shared, {}), folder)
    rows: list[dict[str, Any]] = []
    half = steps // 2
    for step in range(1, steps + 1):
        attempt, start = (1, 0) if step <= half else (2, half)
        row: dict[str, Any] = {"time_s": 10.0 + 2 * (step - start), "attempt": attempt}
        row |= {"actor": "trainer/0", "step": step, "reward": step / steps, "grad_norm": 1.0}
        row |= {"kl": 0.01, "ess": 0.9, "entropy": 0.5, "age_0": 0.6, "age_1": 0.4, "step_s": 1.0}
        row |= {"tokens": 1000.0, "tickets_issued": step * 4.0 + 8, "tickets_trained": step * 4.0}
        rows.append({**row, "tickets_leased": 8.0})
    samples = []
    for step, share in ((0, 0.15), (half, 0.5), (steps, 0.74)):
        attempt = 1 if step <= half else 2
        about = {"time_s": 12.0, "attempt": attempt, "actor": "evaluator/0", "step": step}
        rows.append({**about, "eval/sums/pass@1": share})
        sample = {"step": step, "task": "sums", "problem": 0, "prompt": f"1+2= {HOSTILE}"}
        sample |= {"text": f"answer of step {step} {HOSTILE}", "answer": "3", "stop": "stop"}
        samples.append({**sample, "reward": share, "parts": {}, "fault": ""})
    lines(folder / "metrics.jsonl", rows)
    lines(folder / "samples.jsonl", samples)
    event = {"time_s": 50.0, "attempt": 2, "actor": "head/0"}
    lines(
        folder / "events.jsonl",
        [
            {**event, "text": f"generator/0 died: killed {HOSTILE}"},
            {**event, "text": f"stopping: trained {steps} steps"},
        ],
    )
    # Window of attempt 2: 12 s to 10 + 2 * half s.
    spans = {"trainer/0": [[0.0, 22.0]], "generator/0": [[17.0, 40.0], [41.0, 42.0]]}
    seconds = {"trainer/0": {"train": 20.0, HOSTILE: 2.0}, "generator/0": {"generate": 24.0}}
    (folder / "busy.json").write_text(json.dumps({"spans": spans, "seconds": seconds}))
    counts = {"issued": 128, "trained": 120, "leased": 5, "set_aside": 3}
    book = {"counts": counts, "reasons": {"set_aside": {f"too long {HOSTILE}": 3}}}
    (folder / "ledger.json").write_text(json.dumps(book))
    (folder / "topology.toml").write_text(f"# {HOSTILE}\nenv = {{ TOKEN = 'hush' }}\nlr = 1\n")
    return folder


class Page(HTMLParser):
    """The page's text; fails on tags that do not nest, scripts, and references to elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.all_tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.tags, f"left open: {self.tags}"
        self.text = " ".join(" ".join(self.texts).replace("\u00a0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe"), tag
        assert not [a for a, _ in attrs if a in ("src", "href") or a.startswith("on")], attrs
        self.all_tags.add(tag)
        if tag not in ("meta",):
            self.tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.tags.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1] != "style":
            self.texts.append(data)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_the_numbers(tmp_path: Path) -> None:
    path = write_report(a_run(tmp_path / "demo-2"))
    page = read(path)
    assert path == tmp_path / "demo-2" / "report.html"
    for expected in (
        "demo demo-2",
        "sums pass@1 went from 0.15 to 0.74 in 30 steps and 90 s.",
        "How it ended: trained 30 steps.",
        "0.15 → 0.74",
        "192 held-out problems, T = 1",
        "2 attempts",
        "30 k",
        "40 % older than 0",
        "answer of step 0",
        "answer of step 30",
        "reference: 3",
        "Issued 128 = 120 trained + 5 leased + 3 set aside (balanced)",
        "too long",
        "generator/0 died: killed",
        "lr = 0.0004",
    ):
        assert expected in page.text, expected
    assert "answer of step 15" not in page.text


def test_overlap_is_of_the_steps_of_the_last_attempt(tmp_path: Path) -> None:
    story = Story(a_run(tmp_path / "r"))
    assert story.rows.window() == (12.0, 40.0)
    assert story.overlap() == (28.0, 23.0, 10.0, 5.0)
    page = read(write_report(story.folder))
    assert "both busy 18 % of the wall time" in page.text


def test_hostile_text_is_shown_and_not_run(tmp_path: Path) -> None:
    path = write_report(a_run(tmp_path / "r"))
    page = read(path)  # it refuses every script element
    assert page.text.count("alert(") >= 5
    assert HOSTILE not in path.read_text(encoding="utf-8")
    assert "hush" not in path.read_text(encoding="utf-8")


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    page = read(write_report(tmp_path))
    assert "No training step was finished." in page.text
    assert "broke off" in page.text


@pytest.mark.parametrize("gone", ["plan.json", "events.jsonl", "samples.jsonl", "busy.json"])
@pytest.mark.parametrize("how", ["missing", "damaged", "torn", "of another form"])
def test_half_a_run_gives_a_page(tmp_path: Path, gone: str, how: str) -> None:
    folder = a_run(tmp_path / "r", steps=3)
    path = folder / gone
    if how == "missing":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(b"\xff\x00{]")
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_text('{"spans": 3, "seconds": {"a": 1}, "step": 1, "counts": []}\n3\n')
    assert "in 3 steps" in read(write_report(folder)).text


def test_only_a_warm_start_so_far(tmp_path: Path) -> None:
    row = {"time_s": 3.0, "attempt": 1, "actor": "trainer/0", "warm_start_step": 20}
    lines(tmp_path / "metrics.jsonl", [{**row, "warm_start_loss": 1.0}])
    assert "No training step was finished." in read(write_report(tmp_path)).text


def test_one_step_and_values_that_are_not_finite(tmp_path: Path) -> None:
    row = {"time_s": 3.0, "attempt": 1, "actor": "trainer/0", "step": 1, "reward": 1.0}
    bad = {"grad_norm": math.nan, "kl": math.inf, "entropy": 1e300, "ess": None, "tokens": "x"}
    lines(tmp_path / "metrics.jsonl", [{**row, **bad}])
    assert "Trained for 1 step" in read(write_report(tmp_path)).text


def test_the_curve_alone_is_an_svg_file(tmp_path: Path) -> None:
    folder, out = a_run(tmp_path / "r"), tmp_path / "curve.svg"
    result = CliRunner().invoke(main, [str(folder), "--curve", str(out)])
    assert result.exit_code == 0, result.output
    root = ET.fromstring(out.read_text(encoding="utf-8"))
    texts = [element.text or "" for element in root.iter()]
    assert "sums pass@1 0.15 -> 0.74 (192 held-out problems, T = 1)" in texts
    assert any(text.endswith("sums 0.74") for text in texts)
    assert not (folder / "report.html").exists()


# ------------------------------------------------------------ charts


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(3.0, 87.0) == [25.0, 50.0, 75.0]
    assert ticks(2.0, 2.0) == [2.0]
    assert ticks(-1e308, 1e308) == [-1e308]


def test_thin_keeps_both_ends_and_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    kept = thin(points, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert all(abs(y - 0.5) < 0.1 for _, y in kept[1:-1])


def test_ticks_never_read_alike() -> None:
    text = line_chart([Series("ess", [(0.0, 0.991), (1.0, 0.999)])], show=percent)
    told = [element.text for element in ET.fromstring(text).iter("text")]
    assert len(told) == len(set(told))
    assert "99.25 %" in told


def test_a_trend_is_as_long_as_its_points_and_smoother() -> None:
    points = [(float(i), float(i % 2)) for i in range(100)]
    smooth = trend(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert all(0.3 < y < 0.7 for _, y in smooth)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [-1.0, 1e-9], [math.nan, math.inf]])
def test_charts_of_odd_values_are_well_formed(values: list[float]) -> None:
    series = [Series("a<b", [(float(i), v) for i, v in enumerate(values)])]
    for text in (line_chart(series), stacked_chart(series)):
        ET.fromstring(text)
        assert "nan" not in text
        assert "inf" not in text


def test_a_strip_of_very_many_spans_stays_small() -> None:
    spans = [(i * 0.01, i * 0.01 + 0.005) for i in range(50_000)]
    text = strip([Lane("generator", spans, 1)], (0.0, 500.0), width=1000)
    ET.fromstring(text)
    assert len(text) < 200_000
    assert "50 % busy" in text


def test_what_is_shareable() -> None:
    text = "env = { A = 'x' }\nmax_tokens = 56\ntokenizer = 'y'\nhub_api_key = 'z'\n"
    assert shareable(text) == "env = …\nmax_tokens = 56\ntokenizer = 'y'\nhub_api_key = …\n"


def test_greedy_answers_stand_beside_sampled_ones(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "r")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if "eval/sums/pass@1" in row:
            row["eval/sums/greedy"] = 0.02 if row["step"] == 0 else 0.91
    lines(folder / "metrics.jsonl", rows)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    greedy = [
        {**row, "text": f"likeliest of {row['step']}", "decoding": "greedy"} for row in samples
    ]
    lines(folder / "samples.jsonl", greedy + samples)
    (pair,) = Story(folder).pairs()
    texts = [row["text"].split(" <")[0] for row in (pair.first, pair.last, *pair.greedy)]
    assert texts == ["answer of step 0", "answer of step 30", "likeliest of 0", "likeliest of 30"]
    page = read(write_report(folder))
    assert "step 30, greedy" in page.text
    assert "greedy 0.02 → 0.91; 192 held-out problems, T = 1" in page.text.replace("\u00a0", " ")
    line = words.task_line(Story(folder).rows, "sums", Story(folder).shared)
    assert line == "sums pass@1 0.15 -> 0.74, greedy 0.02 -> 0.91 (192 held-out problems, T = 1)"
    assert "Sampled answers (pass@1)" in page.text
    assert "Greedy answers" in page.text
    assert "what does not come of less chance" in page.text
    assert (folder / "report.html").read_text().count("greedy on held-out") == 2, "two widths"


def test_a_task_that_is_asked_otherwise_is_told_apart(tmp_path: Path) -> None:
    tasks = {
        "sums": {"use": "train", "data": "new:addz", "prompt": "{question}"},
        "held": {"use": "eval", "data": "new:addz", "prompt": "{question}"},
        "forced": {"use": "eval", "data": "new:addz", "prompt": "{question}{forced}"},
        "other": {"use": "eval", "data": "new:chainz", "prompt": "Add up {question}"},
    }
    asked = {name: words.asked_as(name, {"tasks": tasks}) for name in tasks}
    assert asked == {"sums": "", "held": "", "forced": "{question}{forced}", "other": ""}
    rows = Story(a_run(tmp_path / "r")).rows
    assert words.how_measured(rows, "forced", {"tasks": tasks}) == 'asked as "{question}{forced}"'


def test_a_forked_run_says_where_its_weights_are_from(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "r")
    event = {"time_s": 0.1, "attempt": 1, "actor": "trainer/0", "text": "begins", "origin": "a@4"}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    assert "Forked: it began with the weights of a@4." in read(write_report(folder)).text
    assert "Forked" not in read(write_report(a_run(tmp_path / "s"))).text


def test_ages_of_the_whole_run_are_a_histogram_by_tokens(tmp_path: Path) -> None:
    rows = Rows()
    for step, tokens, old in ((1, 100.0, 0.0), (2, 300.0, 1.0)):
        ages = {"age_0": 1.0 - old, "age_1": old}
        rows.add("metrics", {"step": step, "grad_norm": 1.0, "tokens": tokens, **ages})
    figure = next(f for f in figures.signs(rows) if f.title == "token age, all steps")
    assert "0: 25 %" in figure.chart
    assert "1: 75 %" in figure.chart
    assert figure.value == "mean 0.75"
