"""What is left when a run has ended: nothing, whatever failed last; and its code and message."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from small_net import topology

from realnet import showing
from realnet.cli import main
from realnet.observe.view import View
from realnet.testing.running import plan_of

SLOW = """
import threading

begun, go_on = threading.Event(), threading.Event()


def report(folder):
    begun.set()
    assert go_on.wait(20)
    return folder / "report.html"


def bad(folder):
    raise ValueError("no ink")


class Blind:
    def __init__(self, console):
        raise RuntimeError("cannot see")
"""


def shown() -> tuple[View, io.StringIO]:
    text = io.StringIO()
    return View(Console(file=text, width=300)), text


def with_run(folder: Path, line: str) -> str:
    (folder / "extra.py").write_text(SLOW)
    return f"[run]\n{line}\n" + topology(folder, num=0)


async def test_an_interrupt_gives_up_the_report_and_nothing_else(tmp_path: Path) -> None:
    plan = plan_of(with_run(tmp_path, 'report = "extra.py:report"'), tmp_path)
    view, text = shown()
    reporting = asyncio.ensure_future(showing.write_report(plan, tmp_path, view))
    extra = showing.load_object("extra.py:report", tmp_path, "here").__globals__
    assert await asyncio.to_thread(extra["begun"].wait, 20)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(reporting, 10)
    extra["go_on"].set()
    assert "the report was given up; it is written by: realnet report" in text.getvalue()


async def test_a_report_that_fails_is_told(tmp_path: Path) -> None:
    plan = plan_of(with_run(tmp_path, 'report = "extra.py:bad"'), tmp_path)
    view, text = shown()
    await showing.write_report(plan, tmp_path, view)
    assert "the report could not be written: ValueError('no ink')" in text.getvalue()


def test_a_view_that_cannot_be_made_leaves_no_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = tmp_path / "net.toml"
    path.write_text(with_run(tmp_path, 'view = "extra.py:Blind"'))
    result = CliRunner().invoke(main, ["run", str(path), "--inline", "--runs", str(tmp_path)])
    assert isinstance(result.exception, RuntimeError)
    assert list(temporary.iterdir()) == []
