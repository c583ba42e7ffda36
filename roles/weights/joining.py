"""A member's side of collective updates: take a place at the sender's barrier, receive, say how.

A group is kept from one update to the next while its epoch stays. After any failure it is dropped,
and the version comes by another link.

torch only through `collective.py`, imported when the first place is given. Called by `receiver.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from realnet.errors import AskError, RealnetError
from realnet.message import Request
from realnet.roles.messages import JoinUpdate, Manifest, Source, Turn, UpdateEnded
from realnet.roles.weights.digests import WeightsDamaged, WeightsGone

if TYPE_CHECKING:
    from realnet.roles.weights.collective import Group

BARRIER_S = 120.0  # at the most; the sender's patience is shorter


class AskServer(Protocol):
    """The port that asks the sender."""

    def __call__(
        self, request: Request[Any], *, deadline_s: float | None = None, to: str | None = None
    ) -> Awaitable[Any]: ...


class Member:
    """One member of a sender's groups. `name` is its address."""

    def __init__(self, name: str, ask: AskServer) -> None:
        self._name = name
        self._ask = ask
        self._group: Group | None = None
        self._key: tuple[Any, ...] = ()

    async def receive(self, manifest: Manifest, source: Source, out: memoryview) -> None:
        """Fill `out` [num_bytes]. Raises WeightsGone or WeightsDamaged: take another link."""
        request = JoinUpdate(manifest.version, self._name, source.link)
        try:
            await asyncio.to_thread(_prepare)  # torch takes a while: before others wait for us
        except ImportError as error:
            raise WeightsGone(f"{manifest.version} by {source.link}: {error}") from None
        try:
            turn: Turn = await self._ask(request, deadline_s=BARRIER_S, to=source.at or None)
        except AskError as error:
            raise WeightsGone(f"{manifest.version} by {source.link}: {error}") from None
        if not turn.rank:
            raise WeightsGone(f"{manifest.version} by {source.link}: {turn.why}")
        failure: RealnetError | None = None
        try:
            await asyncio.to_thread(self._receive, turn, source.link, manifest, out)
        except WeightsDamaged as error:
            failure = error
        except (RealnetError, RuntimeError) as error:
            failure = WeightsGone(f"{manifest.version} by {source.link} failed: {error}")
        ended = UpdateEnded(manifest.version, self._name, turn.epoch, str(failure or ""))
        with contextlib.suppress(AskError):  # it hears nothing, and builds the group again
            await self._ask(ended, to=source.at or None)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Drop the group."""
        group, self._group = self._group, None
        if group is not None:
            group.close()

    def _receive(self, turn: Turn, link: str, manifest: Manifest, out: memoryview) -> None:
        from realnet.roles.weights.collective import Group, reach_store

        key = (link, turn.store, turn.epoch, turn.rank, turn.size)
        if self._group is None or self._key != key:
            self.close()
            store = reach_store(*turn.store, turn.timeout_s)
            self._group = Group(
                "nccl" if link == "nccl" else "gloo",
                *(store, turn.epoch, turn.rank, turn.size),
                timeout_s=turn.timeout_s,
                host=_own_address(turn.store[0]),
            )
            self._key = key
        try:
            self._group.receive(manifest, out)
        except BaseException:
            self.close()
            raise


def _prepare() -> None:
    """Import what joining needs."""
    import realnet.roles.weights.collective  # noqa: F401


def _own_address(other: str) -> str:
    """Return the address of this host that reaches another's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing
        return str(probe.getsockname()[0])
