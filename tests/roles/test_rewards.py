"""Rewards: what the built-in ones say, and what their references mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realnet.errors import ConfigError
from realnet.roles.rewards import check_reference, resolve
from realnet.roles.rewards.frames import BadFrame, Frames, encode
from realnet.roles.rewards.functions import exact, length, math, numeric, well_formed


@pytest.mark.parametrize(
    ("text", "stop", "score"),
    [
        ("4772", "stop", 1.0),
        ("<think>7+5=12</think>4772", "stop", 1.0),
        ("7+5=12</think> 4772\n", "stop", 1.0),  # the prompt opened the thinking
        ("<think></think>4772", "length", 0.0),
        ("<think>4772", "stop", 0.0),
        ("</think></think>4772", "stop", 0.0),
        ("<think>4772</think>", "stop", 0.0),
        ("<think></think>14772", "stop", 0.0),
        ("", "stop", 0.0),
    ],
)
def test_exact(text: str, stop: str, score: float) -> None:
    assert exact("q", text, "4772", stop=stop) == score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("so it is \\boxed{72}.", "72", 1.0),
        ("She earns $1,000 a year, so 1,000", "1000", 1.0),
        ("\\boxed{1000}", "1,000", 1.0),
        ("the answer is $\\frac{1}{2}$", "0.5", 1.0),
        ("\\boxed{\\frac12}", "\\frac{1}{2}", 1.0),
        ("#### 18", "18", 1.0),
        ("<think>9</think>18.00", "18", 1.0),
        ("<think>18", "18", 0.0),
        ("<think>18</think>19", "18", 0.0),
        ("no idea", "18", 0.0),
        ("\\boxed{}}{{\\frac{", "18", 0.0),
        ("", "18", 0.0),
    ],
)
def test_math(text: str, answer: str, score: float) -> None:
    assert math("q", text, answer) == score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("she has 1,250.50 left", "1250.5", 1.0),
        ("first 3, then -4", "-4", 1.0),
        ("-4 and 3", "-4", 0.0),
        ("1.8e1", "18", 1.0),
        ("18.0001", "18", 0.0),
        ("<think>18</think>19", "18", 0.0),
        ("<think>18", "18", 0.0),
        ("3 apples</think>18 pears", "#### 18", 1.0),
        ("no number", "18", 0.0),
        ("x18", "18", 0.0),  # a name
        ("", "0", 0.0),
    ],
)
def test_numeric(text: str, answer: str, score: float) -> None:
    assert numeric("q", text, answer) == score


def test_numeric_refuses_to_judge_by_a_reference_without_a_number() -> None:
    with pytest.raises(ValueError, match="has no number"):
        numeric("q", "5", "five")


@pytest.mark.parametrize(
    ("prompt", "text", "stop", "score"),
    [
        ("q", "<think>a</think>b", "stop", 1.0),
        ("q", " <think></think> b", "stop", 1.0),
        ("q <think>\n", "a</think>b", "stop", 1.0),
        ("q", "a</think>b", "stop", 0.0),
        ("q", "<think>a</think>", "stop", 0.0),
        ("q", "<think>a</think>b", "length", 0.0),
        ("q", "<think>a<think></think>b", "stop", 0.0),
        ("q", "</think><think>b", "stop", 0.0),
        ("q", "so: <think>a</think>b", "stop", 0.0),
        ("q", "b", "stop", 0.0),
    ],
)
def test_format(prompt: str, text: str, stop: str, score: float) -> None:
    assert well_formed(prompt, text, "x", stop=stop) == score


def test_length_is_in_thousands_of_characters() -> None:
    assert length("q", "x" * 250, "a") == 0.25


def test_math_refuses_to_judge_by_an_unreadable_reference() -> None:
    with pytest.raises(ValueError, match="reference answer"):
        math("q", "5", "")


# ---------------------------------------------------------------- references

MINE = """
import nothing_like_this_is_installed
def short(prompt: str, text: str, answer: str) -> float:
    return -len(text)
def two(prompt, text): ...
def optional(prompt, text, answer, *, stop, scale=1.0): ...
async def later(prompt, text, answer, more, still): ...
async def soon(prompt, text, answer): return 0.5
made = lambda prompt, text, answer: 1.0
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "my_rewards.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def f(:\n")
    return tmp_path


@pytest.mark.parametrize(
    "reference",
    [
        "exact",
        "math",
        "my_rewards.py:short",
        "./my_rewards.py:optional",
        "my_rewards.py:made",
        "my_rewards.py:soon",
        "numeric",
        "format",
        "length",
        "realnet.roles.rewards.functions:math",
    ],
)
def test_what_is_there_passes_without_running_anything(base: Path, reference: str) -> None:
    check_reference(reference, base, "[tasks.t].reward")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("my_rewards.py:later", "takes 5 arguments"),
        ("exakt", 'Did you mean "exact"?'),
        ("maths", 'Did you mean "math"?'),
        ("my_rewards.py:shrot", 'Did you mean "short"?'),
        ("my_reward.py:short", 'Did you mean "my_rewards.py"?'),
        ("my_rewards.py:two", "takes 2 arguments"),
        ("broken.py:f", "is not Python"),
        ("no_such_package.mod:f", "'no_such_package', which is not installed"),
        ("realnet.roles.nowhere:f", "'realnet.roles.nowhere'"),
        ("realnet.roles.rewards.functions:exat", 'Did you mean "exact"?'),
        ("..:f", "which is not installed"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest_right_name(
    base: Path, reference: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_reference(reference, base, "[tasks.t].reward")
    assert str(caught.value).startswith("[tasks.t].reward: ")
    assert expected in str(caught.value)


def test_resolving_passes_stop_only_to_functions_that_name_it(base: Path) -> None:
    (base / "r.py").write_text(
        "import helper\n"
        "def plain(prompt, text, answer): return [prompt, text, answer]\n"
        "def wants(prompt, text, answer, stop): return helper.twice(stop)\n"
    )
    (base / "helper.py").write_text("def twice(x): return x + x\n")
    code = (
        "from pathlib import Path; from realnet.roles.rewards import resolve\n"
        f"base = Path({str(base)!r})\n"
        "assert resolve('r.py:plain', base)('p', 't', 'a', 'stop') == ['p', 't', 'a']\n"
        "assert resolve('r.py:wants', base)('p', 't', 'a', 'stop') == 'stopstop'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_module_that_does_not_import_is_named(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_rewards\.py raised ModuleNotFoundError"):
        resolve("my_rewards.py:short", base)


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from realnet.roles.rewards import check_reference\n"
        "import realnet.roles.tasks\n"
        "check_reference('math', Path('.'), 'x')\n"
        "heavy = {'torch', 'transformers', 'sympy', 'math_verify'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# ---------------------------------------------------------------- frames


def test_frames_come_out_whole_however_they_are_cut() -> None:
    stream = b"".join(encode(value) for value in (["a", 1.5], {"b": None}, "é" * 1000))
    frames, taken = Frames(), []
    for i in range(0, len(stream), 7):
        frames.feed(stream[i : i + 7])
        while (there := frames.take())[0]:
            taken.append(there[1])
    assert taken == [["a", 1.5], {"b": None}, "é" * 1000]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    frames = Frames()
    frames.feed(data)
    with pytest.raises(BadFrame):
        frames.take()
