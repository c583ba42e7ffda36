"""`realnet init`: what it writes checks, runs and passes its own test, by real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from realnet.cli import main

ROOT = Path(__file__).parent.parent.parent


def command(folder: Path, *words: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_new_project_checks_runs_and_passes_its_test(tmp_path: Path) -> None:
    command(tmp_path, "realnet.cli", "init", "hello")
    project = tmp_path / "hello"
    assert "in order (1 role, 1 process, 0 wires)" in command(
        project, "realnet.cli", "check", "topology.toml"
    )
    told = command(project, "realnet.cli", "run", "topology.toml")
    assert "Hello, Ada" in told
    assert "done: 2 greeted" in told
    assert "who is greeted, in order" in command(
        project, "realnet.cli", "explain", "topology.toml", "greeter.names"
    )
    assert "1 passed" in command(project, "pytest", "-p", "no:cacheprovider")
    command(project, "mypy", "--strict", "roles.py")
    assert len((project / "README.md").read_text().splitlines()) <= 10


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "roles.py").write_text("precious")
    result = CliRunner().invoke(main, ["init", str(folder)])
    assert result.exit_code == 2
    assert "is there already, and nothing is overwritten" in result.output
    assert [p.name for p in folder.iterdir()] == ["roles.py"]
    assert (folder / "roles.py").read_text() == "precious"


def test_a_name_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", str(tmp_path / "a b")])
    assert result.exit_code == 2
    assert "cannot name a project" in result.output
