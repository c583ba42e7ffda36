"""What a run shows while it goes on, and what it leaves to be looked at: the view, status.json, the
times when roles were busy, the report.

None of them can end a run: what fails here is said, and shown no more. Knows nothing of how a run
ends. Called by `run.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from realnet.head import Head
from realnet.observe.record import Record, Row
from realnet.observe.status import write_status
from realnet.observe.view import View
from realnet.topology.kinds import load_object
from realnet.topology.plan import Plan

VIEW_S = 0.5


class StatusReporter:
    """Writes status.json from what the head knows."""

    def __init__(self, head: Head, folder: Path):
        self._head, self._folder = head, folder

    def write(self, end: str) -> None:
        """Write the present state; `end` says how the run ended."""
        with contextlib.suppress(OSError):  # a full disk: the run itself decides what that means
            write_status(self._head.run_status(end), self._folder)


def shown(view: View, record: Record) -> Callable[[str, Row], None]:
    """Hand rows to the view; one that fails is told once and asked no more."""

    def show(kind: str, row: Row) -> None:
        try:
            view.row(kind, row)
        except Exception as error:
            record.watchers.remove(show)
            text = f"the view cannot show a row of {kind}, and shows no more: {error!r}"
            record.write("head/0", "event", time.monotonic(), {"text": text})
            view.say(text)

    return show


async def keep_drawing(view: View, reporter: StatusReporter, head: Head) -> None:
    """Draw the view and write the state, twice a second."""
    drawing = True
    while True:
        if drawing:
            try:
                view.draw()
            except Exception as error:  # the view's own fault: the run goes on unseen
                drawing = False
                head.say(f"the view cannot be drawn any more: {error!r}")
        reporter.write("")
        await asyncio.sleep(VIEW_S)


def write_busy(record: Record, folder: Path, started_s: float) -> None:
    """Write who was busy when, for the report; seconds since the start of this attempt."""
    spans: dict[str, Any] = {
        actor: [[round(a - started_s, 3), round(b - started_s, 3)] for a, b in mine]
        for actor, mine in record.busy.spans.items()
    }
    labels = {
        actor: {label: round(s, 3) for label, s in by.items()}
        for actor, by in record.busy.seconds.items()
    }
    (folder / "busy.json").write_text(json.dumps({"spans": spans, "seconds": labels}))


async def write_report(plan: Plan, folder: Path, view: View) -> None:
    """Write the report the topology names. A signal gives it up: the run itself has ended."""
    reference = str(plan.run.get("report", ""))
    if not reference:
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def told(text: str) -> None:
        if not done.done():
            done.set_result(text)

    def write() -> None:
        try:
            text = f"report: {load_object(reference, Path(plan.base), '[run].report')(folder)}"
        except Exception as error:  # a report that fails must not spoil a run that went well
            text = f"the report could not be written: {error!r}"
        with contextlib.suppress(RuntimeError):  # it was given up, and the loop is closed
            loop.call_soon_threadsafe(told, text)

    gave_up = f"the report was given up; it is written by: realnet report {folder}"
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told, gave_up)
    try:
        threading.Thread(target=write, name="report", daemon=True).start()
        view.say(await done)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
