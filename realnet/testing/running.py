"""A whole topology in the test's own loop.

Real nodes, members, head and codec; no processes and no sockets. Knows nothing of roles.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

import realnet.guest.node
from realnet.address import parse_address
from realnet.control import HEAD, HEAD_SLOT
from realnet.errors import ConfigError
from realnet.guest.joining import Way, new_life
from realnet.guest.meeting import Meeting
from realnet.head import Head, HeadConfig
from realnet.launch.inline import InlineLauncher
from realnet.memberactor import run_info
from realnet.node import Node
from realnet.observe.record import Record, Row
from realnet.observe.view import View
from realnet.testing.faults import Fault
from realnet.topology import Plan, read_source, resolve, write_plan
from realnet.transport.memory import MemoryNetwork, MemoryTransport


def plan_of(text: str, folder: Path, name: str = "test") -> Plan:
    """Return the plan of a topology given as text; its references start from `folder`."""
    path = folder / "topology.toml"
    path.write_text(text, encoding="utf-8")
    return resolve(read_source(path), name)


class Running:
    """A run that is going on in this loop."""

    def __init__(self, head: Head, launcher: InlineLauncher, folder: Path):
        self.head = head
        self.launcher = launcher
        self.folder = folder
        self.rows: list[tuple[str, Row]] = []

    def actor(self, name: str) -> Any:
        """Return the live actor object of "role/index"."""
        for slot in self.launcher._slots.values():
            for cell in slot.node.cells.values():
                if str(cell.address) == name:
                    return cell.actor
        raise LookupError(f"{name} is not running")

    def is_up(self, slot: str) -> bool:
        """Tell whether a slot's actors are up. The head hears of a death a few turns later."""
        known = self.head.supervisor.slots[slot].state == "up"
        return known and slot in self.launcher.alive()

    def kill(self, slot: str) -> None:
        """Drop a slot in the middle of what it does, as SIGKILL would."""
        self.launcher.kill(slot)

    def suffer(self, fault: Fault) -> None:
        """Let a fault of a schedule happen: kills alone, there is one loop for all."""
        if fault.what != "kill":
            raise ConfigError(f"{fault.what!r} is for simulated runs: here slots can be killed")
        if fault.slot in self.launcher.alive():
            self.kill(fault.slot)

    def guest(self, name: str = "guest") -> realnet.guest.node.Node:
        """Return a guest of this run, to be entered as the `realnet.Node` of a real one."""
        transport = self.head.node.transport
        assert isinstance(transport, MemoryTransport)
        node = realnet.guest.node.Node()
        info, slot = self.head.run_info, new_life(name)
        node.come_by(
            Way(
                Meeting(
                    *(info.name, info.attempt, info.resumed, transport.endpoint),
                    *(str(info.folder), str(info.base), 0, True),
                ),
                slot,
                lambda: transport.network.transport(slot),
                True,
                lambda: None,
            )
        )
        return node

    def events(self) -> list[str]:
        """The texts of all events so far."""
        return [row["text"] for kind, row in self.rows if kind == "event"]

    async def until(self, condition: Callable[[], bool], budget_s: float = 20.0) -> None:
        """Wait until the condition holds; show the state of the run if it does not in time."""
        end_s = time.monotonic() + budget_s
        while not condition():
            if self.head.ended.done() and not self.head.ended.result()[0]:
                raise AssertionError(f"the run ended: {self.head.ended.result()[1]}")
            if time.monotonic() > end_s:
                waits = {n: s.waits for n, s in self.head.status.items()}
                raise AssertionError(f"not reached in {budget_s} s; waits: {waits}")
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(text: str, folder: Path, *, force_codec: bool = False) -> AsyncIterator[Running]:
    """Run a topology given as text until the block ends; then stop it in order.

    Roles that share a process hand each other their records as they are; with `force_codec` these
    go through bytes and back too, so that what could not travel fails here.
    """
    plan = plan_of(text, folder)
    run_folder = folder / "run"
    run_folder.mkdir(exist_ok=True)
    write_plan(plan, run_folder)
    network = MemoryNetwork()
    node = Node(HEAD_SLOT, network.transport("head"), run_info(plan, run_folder, 1, False))
    endpoint = node.transport.endpoint
    launcher = InlineLauncher(plan, run_folder, network, endpoint, force_codec=force_codec)
    record = Record(run_folder, time.monotonic(), 1)
    cell = node.add(Head, parse_address(HEAD), HeadConfig(grace_s=10.0))
    head = cell.actor
    assert isinstance(head, Head)
    head.prepare(node, plan, launcher, record)
    node.owner = head
    node.listen()
    run = Running(head, launcher, run_folder)
    record.watchers.append(lambda kind, row: run.rows.append((kind, row)))
    try:
        head.launch()
        yield run
        await head.stop_all(graceful=True)
    finally:
        await head.stop_all(graceful=False)
        await cell.end(graceful=False)
        record.close()
        node.closed = True
        node.transport.close()


def quiet_view() -> View:
    """Return a view that prints nowhere."""
    return View(Console(file=io.StringIO()))


__all__ = ["Running", "plan_of", "quiet_view", "running"]
