"""Tasks: which problem is asked, how it is worded, and what a mistake in a table is told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from realnet.errors import ConfigError
from realnet.roles.tables import Answer, Task
from realnet.roles.tasks import EVAL_CAP, Dataset, check_tasks, demos
from realnet.roles.tasks.order import Mix, shuffled
from realnet.roles.tasks.template import Template

SAMPLE = Path(__file__).parents[2] / "topologies"


def task(data: str = "./data.jsonl", **fields: object) -> Task:
    return Task(data=data, reward={"exact": 1.0}, **fields)  # type: ignore[arg-type]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    rows = [{"question": f"q{i}?", "answer": f"steps\n#### {i}", "level": i} for i in range(10)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "data.jsonl").write_text("\n".join([*lines[:5], "", *lines[5:]]) + "\n")
    return tmp_path


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65, 1000])
def test_a_shuffle_is_a_bijection(n: int) -> None:
    assert sorted(shuffled(i, n, seed=3) for i in range(n)) == list(range(n))


def test_shuffles_depend_on_the_seed_and_move_things() -> None:
    one, two = ([shuffled(i, 500, seed) for i in range(500)] for seed in (1, 2))
    assert one != two
    assert sum(i == place for i, place in enumerate(one)) < 10


def test_a_mix_deals_each_tasks_items_once_and_in_proportion() -> None:
    mix = Mix([1.0, 3.0, 0.5], seed=0)
    dealt = [mix(k) for k in range(9 * 200)]
    assert len(set(dealt)) == len(dealt)
    assert Counter(which for which, _ in dealt) == {0: 400, 1: 1200, 2: 200}
    assert sorted(j for which, j in dealt if which == 2) == list(range(200))


def test_a_mix_starves_no_task() -> None:
    mix = Mix([1.0, 1e-9], seed=0)
    assert any(mix(k)[0] == 1 for k in range(2000))


# ---------------------------------------------------------------- templates


def test_only_named_braces_are_placeholders() -> None:
    template = Template(r"{q} in \boxed{} or {1} or {{q}} or {}: \frac{1}{2}")
    assert template.names == ("q",)
    assert template.fill({"q": "{q}!"}) == r"{q}! in \boxed{} or {1} or {q} or {}: \frac{1}{2}"


def test_a_template_may_stand_in_a_file(base: Path) -> None:
    (base / "ask.txt").write_text("Solve: {question}\n")
    dataset = Dataset({"t": task(prompt="ask.txt")}, base)
    assert dataset.train(0)[1].prompt.startswith("Solve: q")
    assert not dataset.train(0)[1].prompt.endswith("\n")


# ---------------------------------------------------------------- problems


def test_an_epoch_asks_every_row_once_and_the_next_one_in_another_order(base: Path) -> None:
    dataset = Dataset({"t": task(answer=Answer(after="####"))}, base)
    epochs = [[dataset.train(e * 10 + i)[1].answer for i in range(10)] for e in range(3)]
    assert all(sorted(map(int, epoch)) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_two_processes_agree_on_every_ticket(base: Path) -> None:
    tasks = {"t": task(), "made": task("new:addz", prompt="{question}", weight=2.0)}
    one, two = Dataset(tasks, base), Dataset(dict(reversed(tasks.items())), base)
    assert [one.train(k) for k in range(50, 0, -1)] == [two.train(k) for k in range(50, 0, -1)]
    assert {one.train(k)[0] for k in range(50)} == {"t", "made"}


def test_columns_rename_and_values_become_text(base: Path) -> None:
    dataset = Dataset(
        {"t": task(prompt="{what} ({level})", columns={"what": "question"}, limit=1)}, base
    )
    name, problem = dataset.train(123)
    assert (name, problem.prompt, problem.answer) == ("t", "q0? (0)", "steps\n#### 0")
    assert problem.source == "data.jsonl line 1"


def test_blank_lines_do_not_shift_the_line_numbers(base: Path) -> None:
    held_out = Dataset({"t": task(use="eval")}, base).held_out("t")
    assert [p.source for p in held_out][4:6] == ["data.jsonl line 5", "data.jsonl line 7"]


def test_held_out_problems_are_bounded_and_not_trained_on(base: Path) -> None:
    dataset = Dataset(
        {"t": task("new:addz"), "e": task("new:addz", use="eval"), "f": task(use="eval", limit=4)},
        base,
    )
    measured = {p.prompt for p in dataset.held_out("e")}
    assert len(dataset.held_out("e")) == EVAL_CAP
    assert len(dataset.held_out("f")) == 4
    assert dataset.train_names == ["t"]
    assert not measured & {dataset.train(k)[1].prompt for k in range(3000)}


def test_the_sample_of_gsm8k_that_ships_is_whole() -> None:
    tasks = {
        "train": task("./data/gsm8k/train.jsonl", answer=Answer(after="####")),
        "test": task("./data/gsm8k/test.jsonl", answer=Answer(after="####"), use="eval"),
    }
    dataset = Dataset(tasks, SAMPLE)
    dataset.check()
    assert len(dataset.held_out("test")) == 32
    assert dataset.held_out("test")[0].answer == "18"
    assert len({dataset.train(k)[1].prompt for k in range(96)}) == 96


def test_demonstrations_come_from_made_tasks_only(base: Path) -> None:
    prompt, response = demos(task("new:addz"), 0)
    assert prompt
    assert "</think>" in response
    with pytest.raises(ConfigError, match="only made tasks"):
        demos(task(), 0)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"data": "./date.jsonl"}, ["[tasks.t].data", 'Did you mean "data.jsonl"?']),
        ({"data": "./no/data.jsonl"}, ["There is no folder"]),
        ({"data": "new:adz"}, ['new:adz"', 'Did you mean "addz"?', "new:addz"]),
        ({"data": "hf:openai/gsm8k:train"}, ["it was not fetched", "realnet fetch"]),
        ({"data": "gsm8k"}, ["not a reference to data"]),
        ({"prompt": "{questoin}"}, ["[tasks.t]", "'questoin'", 'Did you mean "question"?']),
        ({"prompt": "same"}, ["has no {column}"]),
        ({"prompt": "asc.txt"}, ["asc.txt", "cannot read"]),
        ({"answer": Answer(column="anwser")}, ["answer.column", 'Did you mean "answer"?']),
        ({"answer": Answer(after="####!")}, ["answer.after", "data.jsonl line 1"]),
    ],
)
def test_a_wrong_table_is_told_with_the_nearest_right_name(
    base: Path, fields: dict[str, object], expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_tasks({"t": task(**fields)}, base)  # type: ignore[arg-type]
    for text in expected:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{oops", "line 2: not JSON"),
        (b"[1]", "line 2: a JSON object"),
        (b"{}", "line 2 does not"),
        (b'{"question": "a\xff"}', "line 2: not UTF-8"),
        (b"[" * 100_000, "line 2: nested too deeply"),
        (b'{"question": null, "answer": "b"}', "'question', which .* line 2 .* null"),
        (b'{"question": "a", "answer": null}', "'answer', which .* line 2 .* null"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(base: Path, line: bytes, expected: str) -> None:
    (base / "data.jsonl").write_bytes(b'{"question": "a", "answer": "b"}\n' + line + b"\n")
    with pytest.raises(ConfigError, match=rf"\[tasks\.t\].*{expected}"):
        check_tasks({"t": task()}, base)


def test_an_empty_file_and_no_task_to_train_on_are_told(base: Path) -> None:
    (base / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="has no rows"):
        check_tasks({"t": task("./empty.jsonl")}, base)
    with pytest.raises(ConfigError, match="no task to train on"):
        Dataset({"t": task(use="eval")}, base).train(0)
    with pytest.raises(ConfigError, match='Did you mean "math"'):
        Dataset({"math": task(use="eval")}, base).held_out("mahts")


def test_all_wrong_tasks_are_told_at_once(base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_tasks({"a": task("new:x"), "b": task(prompt="{z}")}, base)
    assert "[tasks.a]" in str(caught.value)
    assert "[tasks.b]" in str(caught.value)


def own(folder: Path, text: str) -> Dataset:
    (folder / "mine.py").write_text(text)
    return Dataset({"mine": task("mine.py:Mine")}, folder)


ROW = "def row(self, seed, k, *, held_out):\n        return {'question': f'{k}', 'answer': '1'}\n"


def test_somebodys_own_code_makes_problems(tmp_path: Path) -> None:
    name, problem = own(tmp_path, f"class Mine:\n    {ROW}").train(7)
    assert (name, problem.prompt, problem.answer) == ("mine", "7", "1")
    assert problem.source == "mine.py:Mine seed 0 row 7"
    with pytest.raises(ConfigError, match=r"give it a method demo\(seed, k, progress\)"):
        demos(task("mine.py:Mine"), 0, base=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Mine = 3", "needs a method row.*'int' object has no attribute 'row'"),
        (f"class Mine:\n    {ROW}".replace("'1'", "1"), "a dict of texts is needed"),
        ("def mine(): ...", 'mine.py has no "Mine". Did you mean "mine"'),
    ],
)
def test_what_somebodys_own_code_does_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        own(tmp_path, text).train(0)
