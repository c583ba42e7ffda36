"""Brings a version into the room that an engine reads: whole, whatever it came as.

What the trainer lends on the engine's own GPU is not moved: the room has a loan.

A version that is whole is received into the room. One of adapters is received beside it and laid
over its base, which is had once: mapped where it lies in this host's memory (the parameter server's
or a relay's), or else fetched into memory of our own, for as long as it is the base. Engines get
whole weights and need not know.

The sums run beside the compute thread: tokens are written meanwhile.

Knows receivers, rooms and adapters; knows nothing of engines. Called by the generator.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from realnet.errors import RealnetError
from realnet.roles.messages import Announced, Held, Location, Manifest, Source
from realnet.roles.weights.adapters import base_of, whole_layout
from realnet.roles.weights.digests import WeightsDamaged, WeightsGone, check
from realnet.roles.weights.merging import Stopped, lay_over
from realnet.roles.weights.reader import WeightReader
from realnet.roles.weights.receiver import Receiver, Surroundings
from realnet.roles.weights.room import Room
from realnet.roles.weights.sources import nearest, sources_of, this_host

if TYPE_CHECKING:
    from realnet.roles.weights.lending import Loan

LINK = "cuda_ipc"


class Intake:
    """One receiver's way to whole versions."""

    def __init__(self, actor: Surroundings, receiver: Receiver, host: str = "") -> None:
        self._actor = actor
        self._receiver = receiver
        self._host = host or this_host()
        self._reader = WeightReader()  # of bases alone: it keeps their memory mapped
        self._own = Room()  # a base of which this host has no copy
        self._have: Manifest | None = None  # what is in it
        self._looked_at = Source("")  # the mapped base whose digest was found right
        self._reading = threading.Lock()  # a base is not let go of while it is read
        self._closed = False
        self.link = ""  # by which the version came that came last
        self.base_link = ""  # by which its base came; "" if that was here
        self.refused = ""  # why a loan was not had the last time that one was not

    async def take(
        self,
        held: Held,
        announced: Announced,
        room: Room,
        device: str = "",
        *,
        opens_loans: bool = False,
    ) -> Manifest:
        """Fill the room with a version; return what lies in it.

        `device` is the engine's GPU, and with `opens_loans` it opens loans in a process of its own.
        Raises WeightsGone or WeightsDamaged when it cannot be had; the room is rubbish then.
        """
        manifest, self.base_link = held.manifest, ""
        if room.loan is not None:  # of a life that was cut short
            await asyncio.to_thread(room.end_loan)
        if device and await self._borrow(held, room, device, opens_loans):
            self.link = LINK
            return manifest
        if manifest.over is None:
            await self._receiver.receive(held, room.make(manifest.num_bytes))
            self.link = self._receiver.link
            return manifest
        base = base_of(manifest.over, [*self._kept(), *announced.bases])
        if base is None:
            raise WeightsGone(
                f"{manifest.over.base}, which {manifest.version} is laid over, is not held any more"
            )
        near = await self._near(base)
        adapters = bytearray(manifest.num_bytes)
        await self._receiver.receive(held, memoryview(adapters))
        self.link = self._receiver.link
        out = room.make(whole_layout(base.manifest, manifest).num_bytes)
        # Beside the compute thread, which writes tokens.
        try:
            whole = await asyncio.to_thread(
                self._lay_over, near, base.manifest, manifest, adapters, out
            )
        except Stopped:
            raise WeightsGone(f"{manifest.version}: the receiver was closed") from None
        return msgspec.structs.replace(whole, canary=manifest.canary)

    async def close(self) -> None:
        """Let go of the base, when the sums that may be going on have been stopped."""
        self._closed = True
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        with self._reading:
            self._reader.close()
            self._own.close()

    async def _borrow(self, held: Held, room: Room, device: str, opens_loans: bool) -> bool:
        """Borrow a version on this GPU; tell whether that was possible."""
        for source in nearest(held, self._host, (LINK,)):
            if source.at != device:
                continue
            try:
                room.loan = await asyncio.to_thread(_borrowed, held, source, opens_loans)
            except (WeightsGone, WeightsDamaged) as error:
                self.refused = str(error)
            else:
                return True
        return False

    def _kept(self) -> list[Held]:
        return [] if self._have is None else [Held(self._have, Location("", 0, 0))]

    async def _near(self, base: Held) -> Held | None:
        """Return the base where this host has it; None when it is in memory of our own."""
        if self._have is not None and self._have.digest == base.manifest.digest:
            return None
        for source in sources_of(base, self._host):
            if source.link == "shm" and source.host == self._host and source.location is not None:
                near = msgspec.structs.replace(base, location=source.location)
                if source != self._looked_at:
                    await asyncio.to_thread(self._look_at, near)
                    self._looked_at = source
                return near
        self._have = None
        await self._receiver.receive(base, self._own.make(base.manifest.num_bytes))
        self._have = base.manifest
        self.base_link = self._receiver.link
        return None

    def _look_at(self, near: Held) -> None:
        with self._reading, self._reader.mapped(near) as view:
            check(near.manifest, view, f"in slot {near.location.slot} of {near.location.path}")

    def _lay_over(
        self,
        near: Held | None,
        base: Manifest,
        adapters: Manifest,
        data: bytearray,
        out: memoryview,
    ) -> Manifest:
        with self._reading, self._base(near) as view:
            try:
                return lay_over(base, view, adapters, data, out, lambda: self._closed)
            except RealnetError as error:
                raise WeightsDamaged(str(error)) from error

    @contextmanager
    def _base(self, near: Held | None) -> Iterator[memoryview]:
        if near is None:
            yield self._own.view().toreadonly()
        else:
            with self._reader.mapped(near) as view:
                yield view


def _borrowed(held: Held, source: Source, opens_loans: bool) -> Loan:
    # torch comes with them: only where there is something to borrow
    from realnet.roles.weights import cuda_ipc
    from realnet.roles.weights.lending import borrow

    try:
        return borrow(held, source, None if opens_loans else cuda_ipc.device(source.at))
    except (WeightsGone, WeightsDamaged):
        raise
    except RealnetError as error:
        raise WeightsGone(str(error)) from error
