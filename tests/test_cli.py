"""What the command line says to who mistypes: always text, a next step, never a traceback."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from realnet.cli import main
from realnet.cli_begin import claimed, start_new

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
        ('extends = "rl"\ntitle = "../up"', "named after it: a name without /"),
        ('extends = "rl"\n[tasks.a]', "[policy] is missing: the model, tokenizer"),
        ('extends = "rl"\ntitle = "' + "a" * 101 + '"', "of at most 100 letters"),
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


def test_a_folder_is_no_topology(tmp_path: Path) -> None:
    (tmp_path / "own.toml").touch()
    result = told("check", str(tmp_path))
    assert result.exit_code == 2
    assert f"{tmp_path} is a folder. Name a topology file; it has: own.toml" in result.output


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        ("suspect=0s", "suspect = 0 s: processes beat every 0.25 s, so at least 0.5 s"),
        ("hung=1s", "hung = 1 s: longer than suspect = 3 s, or who is late once is killed"),
        ("boot=10ms", "boot = 0.01 s: a process cannot load and join in less than 1 s"),
    ],
)
def test_patience_with_which_nothing_could_live_is_refused(patience: str, expected: str) -> None:
    result = told("check", "words", "--set", f"run.{patience}")
    assert result.exit_code == 2
    assert f"[run].{expected}" in result.output


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "a" * 101])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(tmp_path: Path, name: str) -> None:
    result = told("run", "words", "--runs", str(tmp_path), "--name", name)
    assert result.exit_code == 2
    assert f"--name {name}: the run's folder under {tmp_path}: a name without /" in result.output


def test_runs_that_begin_at_the_same_moment_have_names_of_their_own(tmp_path: Path) -> None:
    start = start_new(Path("words"), (), "", tmp_path)  # as each of them sees it
    names = []
    for _ in range(3):
        own = claimed(start, tmp_path)
        assert own.path == tmp_path / own.plan.name
        assert own.path.is_dir()
        names.append(own.plan.name)
    assert names == ["words", "words-2", "words-3"]
    (tmp_path / "file").touch()
    assert claimed(start, tmp_path / "file") is start


def test_secrets_that_this_shell_does_not_have_are_missed_but_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALNET_TEST_THERE", "x")
    names = 'roles.tally.secrets=["REALNET_TEST_THERE", "hf_tokenofsomebody"]'
    result = told("run", "words", "--runs", str(tmp_path), "--set", names)
    assert result.exit_code == 2
    assert "[roles.tally].secrets: number 2 of these variables is not set" in result.output
    assert "tokenofsomebody" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_run_that_would_meet_the_limit_of_open_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realnet.host.allow_files", lambda: 90)
    result = told("run", "words", "--runs", str(tmp_path))
    assert result.exit_code == 1
    assert "5 processes, each linked to all, need up to 100 open files each" in result.output
    assert "here they may have 90 (ulimit -n -H)" in result.output


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space"), "a file (under {cwd} or {tmp}) cannot be written: No"),
        (OSError(errno.EROFS, "Read-only", "/a/b"), "error: /a/b cannot be written: Read-only"),
        (PermissionError(errno.EACCES, "denied", "/a/b"), "error: /a/b may not be used: denied"),
        (OSError(errno.EMFILE, "Too many"), "Too many: this process may have {files} (ulimit -n)"),
        (OSError(errno.EAGAIN, "Try again"), "the machine has no room for another process"),
    ],
)
def test_what_the_system_refuses_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("realnet.cli.write_down", refuse)
    result = told("run", "words", "--runs", str(tmp_path))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    places = {"cwd": os.getcwd(), "tmp": tempfile.gettempdir(), "files": files}
    assert result.exit_code == 1
    assert expected.format(**places) in result.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pln", "words"], "No such command 'pln'. Did you mean \"plan\"?"),
        (["run", "words", "--inline", "--hosts", "2"], "there are no hosts then"),
        (["run", "words", "--spares", "2"], "--spares are beside the hosts of --hosts N"),
        (["run", "words", "--hosts", "-1"], "-1 is not in the range x>=0"),
        (["run", "words", "--resume", "--from", "x"], "choose one"),
    ],
)
def test_words_that_contradict_each_other(words: list[str], expected: str) -> None:
    result = told(*words)
    assert result.exit_code == 2
    assert expected in result.output


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
