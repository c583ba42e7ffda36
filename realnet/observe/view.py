"""What a person sees while a run goes on: in a terminal a live table, else lines.

Generic: roles, what they do and wait for, events. A topology may name a richer one in [run].view;
it subclasses `View` and overrides `headline`, `event_text` and `summary`.

Knows nothing of what the metrics mean. Called by `run.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from realnet.observe.status import in_words
from realnet.observe.visible import visible
from realnet.topology.plan import Plan

if TYPE_CHECKING:
    from realnet.head import Head

Row = dict[str, Any]


class View:
    """Shows one run on one console."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.events: deque[str] = deque(maxlen=6)
        self.plan: Plan | None = None
        self.head: Head | None = None
        self._live: Live | None = None

    # ------------------------------------------------------------ for subclasses

    def metrics(self, row: Row) -> None:
        """A row of metrics came in."""

    def headline(self) -> list[RenderableType]:
        """What stands above the table of roles in a terminal."""
        return []

    def line(self) -> str:
        """One line for a console that is no terminal, or "" for nothing new."""
        return ""

    def summary(self) -> list[str]:
        """The last lines, once the run has ended."""
        return []

    # ------------------------------------------------------------ called by run.py

    def start(self, plan: Plan, head: Head) -> None:
        """The run begins."""
        self.plan, self.head = plan, head
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, screen=False
            )
            self._live.start()

    def row(self, kind: str, row: Row) -> None:
        """A row of metrics or an event was written."""
        if kind == "metrics":
            self.metrics(row)
        elif kind == "event":
            text = str(row.get("text", ""))
            self.events.append(text)
            self.say(f"{row['time_s']:7.1f}s  {row['actor']:<20} {text}")

    def draw(self) -> None:
        """Show the present state."""
        if self._live is not None:
            self._live.update(Group(*self.headline(), self._roles()), refresh=True)
        else:
            line = self.line()
            if line:
                self.say(line)

    def stop(self) -> None:
        """The run has ended."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Print a line above whatever is live."""
        self.console.print(Text(visible(text)))

    def _roles(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        if self.head is None:
            return table
        for _ in range(4):
            table.add_column(no_wrap=True)  # a line for each role: a short terminal shows them all
        names = (len(a) for name, s in self.head.status.items() for a in (name, *s.doing))
        table.columns[0].min_width = max(names, default=0)
        for name, status in self.head.status.items():
            state = self.head.supervisor.slots[name].state
            for actor in sorted(status.doing) or [name]:
                waits = status.waits.get(actor, ())
                wait = f"waits {waits[0][1]:.0f}s for {waits[0][0]}" if waits else ""
                doing = status.doing.get(actor, "")
                if not doing:
                    doing = state
                elif state != "up":
                    doing = f"{state}: {doing}"
                flow = in_words(status.ports(actor))
                table.add_row(
                    actor,
                    Text(visible(doing, one_line=True)),
                    Text(flow),
                    Text(visible(wait, one_line=True), style="dim"),
                )
        return table
