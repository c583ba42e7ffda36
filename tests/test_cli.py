"""What the command line says to who mistypes: always text, a next step, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from realnet.cli import main

ROOT = Path(__file__).parent.parent
DEMO = str(ROOT / "topologies" / "demo.toml")


def told(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tasks.addz.reward=my.py:f", 'Expected table, got a text: write { "name" = value }'),
        (
            "run.until=80 steps",
            "Expected table, got a text: write { key = ... }, keys: steps, time",
        ),
        ("roles.trainer.loss.clip=0.2", "Expected list, got a number"),
        ("trainer.lr=3", "Did you mean roles.trainer.lr=3?"),
        ("policy.group=1", "[policy].group = 1: the answers of a group are compared"),
    ],
)
def test_a_value_of_the_wrong_shape(override: str, expected: str) -> None:
    result = told("check", DEMO, "--set", override)
    assert result.exit_code == 2
    assert expected in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "rl2"', 'Did you mean "rl"?'),
        ('extends = "rl"\ntitle = "../up"', "it is a name without /"),
        ('extends = "rl"\n[tasks.a]', "[policy] is missing: the model, tokenizer"),
        ('extends = "rl"\n[policy]', "no [tasks.X]: write one or more tables [tasks.NAME]"),
    ],
)
def test_a_file_with_something_missing(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    result = told("check", str(tmp_path / "t.toml"))
    assert result.exit_code == 2
    assert expected in result.output


def test_a_file_that_is_not_there_names_those_that_are() -> None:
    result = told("check", "demmo")
    assert 'Did you mean "demo"? With realnet come: ' in result.output
    assert "demo, demo-mix, gsm8k, gsm8k-smoke" in result.output


def test_explain_tells_defaults_and_the_nearest_key() -> None:
    assert "from demo.toml" in told("explain", DEMO, "trainer.lr").output
    assert "    by default" in told("explain", DEMO, "trainer.weight_decay").output
    wrong = told("explain", DEMO, "trainer.lrr")
    assert wrong.exit_code == 2
    assert 'Did you mean "trainer.lr"?' in wrong.output


def test_without_runs(tmp_path: Path) -> None:
    for verb in ("ls", "report"):
        assert "there are no runs under" in told(verb, "--runs", str(tmp_path)).output


def test_an_impatient_ctrl_c_still_tells_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def impatient(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("realnet.run.run_plan", impatient)
    result = told("run", DEMO, "--runs", str(tmp_path))
    assert result.exit_code == 130
    assert f"--resume --name demo --runs {tmp_path}" in result.output.replace("\n", "")


def test_a_folder_for_runs_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = told("run", DEMO, "--runs", str(tmp_path / "file" / "runs"))
    assert result.exit_code == 1
    assert "cannot be made" in result.output
    assert "--runs says where runs go" in result.output
