"""The ports of a script: of whoever is no actor, and asks, follows and sends all the same.

They are those of an actor without handlers, and are made when they are first used. Knows nothing of
runs. Made by `guest/node.py` for a guest, and by `local.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from realnet.actor import Actor
from realnet.address import Address
from realnet.cell import Cell
from realnet.config import Config
from realnet.live import LiveAsk, LivePort
from realnet.message import Message, Request, StreamRequest, reply_type
from realnet.node import Node as Process
from realnet.topology.plan import WirePlan

L = TypeVar("L", bound=LivePort)


class NoConfig(Config):
    """Nothing to configure."""


class Script(Actor[NoConfig]):
    """Has the ports."""


class ScriptPorts:
    """The ports of one script, by name."""

    def __init__(self, process: Process, address: Address):
        self._process = process
        self.cell: Cell = process.add(Script, address, NoConfig())

    def register(self, kind: type[Message]) -> None:
        """From now on records of this kind can come and go, and what is answered to them."""
        self._process.codec.register(kind)
        if issubclass(kind, Request | StreamRequest):
            self._process.codec.register(reply_type(kind))

    def port(self, name: str, live: type[L], kind: type[Message], wires: Sequence[WirePlan]) -> L:
        """Return the port of this name for records of this kind; a new one goes by these wires."""
        self.register(kind)
        known = self.cell.ports.get(name)
        if known is None:
            made = live(self.cell, name, *((False,) if issubclass(live, LiveAsk) else ()))
            known = self.cell.ports[name] = made
            self._process.learn([w for w in wires if w not in self._process.wires])
        assert isinstance(known, live)
        if kind not in known.kinds:
            known.kinds += (kind,)
        return known
