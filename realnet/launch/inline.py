"""Runs every process of a plan inside one loop, over the memory transport.

The same nodes, members and codec as real processes, without processes: for tests, and for stepping
through a topology with a debugger. Killing a slot drops its node in the middle of what it does.

Knows nothing of roles. Called by `head.py` through its `Launcher` protocol.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from realnet.errors import ConfigError
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from realnet.launch import Exited
from realnet.memberactor import make_member, run_info
from realnet.node import Node
from realnet.topology.plan import Plan
from realnet.transport.memory import MemoryNetwork


class _Slot:
    def __init__(self, node: Node, task: asyncio.Task[None], exited: Exited):
        self.node = node
        self.task = task
        self.exited = exited


class InlineLauncher:
    """The slots that live in this loop. `force_codec`: as bytes inside a slot as well."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        network: MemoryNetwork,
        head_endpoint: str,
        attempt: int = 1,
        resumed: bool = False,
        force_codec: bool = False,
    ):
        self._force_codec = force_codec
        self._attempt, self._resumed = attempt, resumed
        self._plan = plan
        self._folder = folder
        self._network = network
        self._endpoint = head_endpoint
        self._slots: dict[str, _Slot] = {}

    def spawn(self, slot: str, incarnation: int, exited: Exited) -> int:
        """Start a slot as a node of this loop."""
        transport = self._network.transport(f"{slot}~{incarnation}")
        info = run_info(self._plan, self._folder, self._attempt, self._resumed)
        name, wires = f"{slot}~{incarnation}", self._plan.wires
        node = Node(name, transport, info, wires, force_codec=self._force_codec)
        task = asyncio.get_running_loop().create_task(self._live(node, slot, incarnation))
        self._slots[slot] = _Slot(node, task, exited)
        return 0

    async def _live(self, node: Node, slot: str, incarnation: int) -> None:
        planned = next(s for s in self._plan.slots if s.name == slot)
        how, refused = "exit code 0", False
        try:
            member = make_member(node, self._plan, planned, incarnation)
            member.load_roles()
            node.listen()
            await member.join(self._endpoint)
            await member.left.wait()
            node.flush()
            how = f"exit code {EXIT_FAILED if member.failed else EXIT_OK}"
        except Exception as error:  # as the process of a slot would end
            refused = isinstance(error, ConfigError)
            how = f"exit code {EXIT_CONFIG if refused else EXIT_FAILED} ({error})"
        self._drop(slot, how, refused)

    def kill(self, slot: str) -> None:
        """Drop a slot at once."""
        if slot in self._slots:
            self._drop(slot, "killed by SIGKILL")

    def dump(self, slot: str) -> str:
        """Nothing: a debugger shows more of what is in this very process."""
        return ""

    def alive(self) -> list[str]:
        """The slots that have not ended."""
        return list(self._slots)

    async def open_arena(self, slot: str, name: str, num_bytes: int) -> str:
        """Nothing: the head's own."""
        return ""

    def _drop(self, slot: str, how: str, refused: bool = False) -> None:
        gone = self._slots.pop(slot)
        gone.node.owner = None  # its last words reach nobody
        gone.node.closed = True
        gone.node.transport.close()
        current = asyncio.current_task()
        for cell in gone.node.cells.values():
            for task in list(cell._tasks):
                if task is not current:
                    task.cancel()
            cell.calls.close()
            cell.bench.close()
        if gone.task is not current:
            gone.task.cancel()
        asyncio.get_running_loop().call_soon(gone.exited, how, refused)
