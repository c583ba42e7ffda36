"""Pages of docs/ as tests read them: their code is code that runs, their commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of every block of a page of docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> list[tuple[str, str]]:
    """Return the blocks below one heading, up to the next of its level."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found, f"docs/{page} has no section {title!r}"
    return re.findall(r"^```(\w*)\n(.*?)^```$", found[1], flags=re.DOTALL | re.MULTILINE)


def write_files(page: str, title: str, folder: Path) -> list[str]:
    """Write down the files that a section shows whole, as somebody would who follows it: each is
    named last before its block. Returns their names.
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found, f"docs/{page} has no section {title!r}"
    shown = r"`([\w./]+)`:\n\n^```(?:python|toml)\n(.*?)^```$"
    files = re.findall(shown, found[1], flags=re.DOTALL | re.MULTILINE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files:
        (folder / name).write_text(content, encoding="utf-8")
    return [name for name, _ in files]


def check_code(pieces: Sequence[tuple[str, str]], files: Sequence[str]) -> int:
    """Assert that every piece of code or TOML is a piece of these files; return how many."""
    code = "".join((ROOT / path).read_text(encoding="utf-8") for path in files)
    pieces = [text for language, text in pieces if language in ("python", "toml")]
    for piece in pieces:
        assert piece in code, piece
    return len(pieces)


def realnet(
    folder: Path, line: str, told: str = "", timeout_s: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run a line that begins with `realnet`, in a folder."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", "realnet.cli", *shlex.split(line, comments=True)[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        input=told,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def run_commands(
    pieces: Sequence[tuple[str, str]],
    folder: Path,
    *,
    wrong: Callable[[str], bool] = lambda line: False,
    timeout_s: float = 50,
) -> int:
    """Run the `sh` blocks, one line at a time; the block without a language that follows is a part
    of what they say. `wrong` tells which must be refused. Returns how many commands ran.
    """
    said, commands = "", 0
    for language, text in pieces:
        if language == "sh":
            said = ""
            for line in text.splitlines():
                done = realnet(folder, line, timeout_s=timeout_s)
                assert done.returncode == (2 if wrong(line) else 0), (
                    line + done.stdout + done.stderr
                )
                said += done.stdout + done.stderr
                commands += 1
        elif said and not language:
            for line in text.splitlines():
                assert line.strip() in said, f"{line}\nis not in\n{said}"
            said = ""
    return commands
