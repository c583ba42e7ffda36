"""The live view of a network that is not RL: what flows, what waits, in figures."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from small_net import topology

from realnet.observe.status import PortStatus, in_words
from realnet.observe.view import View
from realnet.testing import running


def test_ports_in_words() -> None:
    ports = {
        "squares": PortStatus(100, 120.4, 5, 8),
        "numbers": PortStatus(3, 0.31, 0, 4),
        "": PortStatus(7, 0.0),
        "?": PortStatus(9, 12.0, 0, 1),
    }
    assert in_words(ports) == (
        "squares 120/s (5 wait, 8 open)  numbers 0.31/s (4 open)  answers 0/s  asks 12/s (1 open)"
    )


async def test_the_table_shows_what_flows_and_what_waits(tmp_path: Path) -> None:
    async with running(topology(tmp_path, num=40, workers=1), tmp_path) as run:
        await run.until(lambda: run.is_up("sink/0") and run.actor("sink/0").times >= 39)
        worker = run.actor("worker/0")
        worker.hold = True
        run.actor("source/0").spawn(_more(run.actor("source/0")), name="more")
        await run.until(lambda: worker.holding == 4)
        status = run.head.status

        def told(actor: str, port: str) -> PortStatus:
            return status[actor].ports(actor).get(port, PortStatus())

        await run.until(lambda: told("worker/0", "numbers").held == 4)
        await run.until(lambda: told("source/0", "numbers").waiting > 0)
        # Thirteen was set aside. Figures come with beats, from each process in its own time.
        await run.until(lambda: told("sink/0", "squares").done == 39)
        await run.until(lambda: told("helper/0", "").done == 39)
        text = io.StringIO()
        view = View(Console(file=text, width=200, force_terminal=True))
        view.plan, view.head = run.head.plan, run.head
        view.console.print(view._roles())
        shown = text.getvalue()
        assert "4 open" in shown
        assert "wait" in next(line for line in shown.splitlines() if "source/0" in line)
        worker.hold = False


async def _more(source: object) -> None:
    import numpy as np

    module = __import__(type(source).__module__)
    for i in range(100, 120):
        await source.numbers.send(module.Number(i, np.zeros(1, np.int32)))  # type: ignore[attr-defined]
