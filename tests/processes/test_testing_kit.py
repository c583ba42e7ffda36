"""docs/testing.md: its code is a test that somebody else could have written, and it passes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, check_code

EXAMPLE = "examples/testing/test_words.py"


def test_the_code_on_the_page_is_the_code() -> None:
    assert check_code(blocks("testing.md"), [EXAMPLE]) == 4


@pytest.mark.timeout(120)
def test_a_users_own_test_passes(tmp_path: Path) -> None:
    shutil.copy(ROOT / EXAMPLE, tmp_path)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
