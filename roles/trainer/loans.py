"""What a trainer lends on its GPU: the newest version, to generators that work on the same one.

The version goes to the parameter server as always, for everybody else; beside it lies a copy in one
buffer on the GPU (`weights/lending.py`), which the server announces with the version. It is lent
where the server's links say "cuda_ipc", the model is whole on one GPU, and no adapters are trained:
those are small. While somebody still reads, the next version is not lent.

Knows learners and lenders; knows nothing of who borrows. Called by the publication, between writing
a version and having it announced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from realnet.address import Address
from realnet.errors import AskError, RealnetError
from realnet.roles.messages import CopyHeld, Manifest, SlotOpened, Source
from realnet.roles.weights.sources import this_host

if TYPE_CHECKING:
    from realnet.roles.trainer.learner import Learner
    from realnet.roles.weights.lending import Lender

LINK = "cuda_ipc"


class Surroundings(Protocol):
    """What lending needs of its actor."""

    address: Address

    def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Awaitable[Any]: ...
    def arena(self, name: str, *, slot_bytes: int, slots: int) -> Awaitable[str]: ...
    def event(self, text: str, **fields: Any) -> None: ...


class Loans:
    """Lends what a learner has."""

    def __init__(
        self, actor: Surroundings, ask: Callable[..., Awaitable[Any]], learner: Learner
    ) -> None:
        self._actor = actor
        self._ask = ask
        self._learner = learner
        self._lender: Lender | None = None
        self._never = ""  # why nothing is lent in this life

    async def offer(self, opened: SlotOpened, manifest: Manifest) -> None:
        """Lend a version, if it is to be lent; say so to the server before it is announced."""
        if LINK not in opened.links or manifest.over is not None or self._never:
            return
        try:
            lender = await self._have_lender()
            source: Source | None = None
            if lender is not None:
                source = await self._actor.compute(
                    self._lend, lender, manifest, label="lend version"
                )
        except (RealnetError, RuntimeError) as error:  # torch's, of CUDA
            self._never = str(error)
            self._actor.event(f"{self._actor.address} lends no versions on its GPU: {error}")
            return
        if lender is None:
            return
        lent = () if source is None else ((manifest.version, source),)
        said = CopyHeld(str(self._actor.address), this_host(), lent, awaited=False)
        try:
            await self._ask(said)
        except AskError as error:  # nobody hears of it: they have it by another link
            self._actor.event(f"{self._actor.address} could not say what it lends: {error}")

    async def _have_lender(self) -> Lender | None:
        """Return what lends; None for a model that is on no GPU."""
        if self._lender is None:
            from realnet.roles.weights import cuda_ipc
            from realnet.roles.weights.lending import SLOT_BYTES, Lender

            uuid = cuda_ipc.uuid_of(self._learner.device)
            if not uuid:
                self._never = "the model is on no GPU"
                return None
            address = self._actor.address
            name = f"lent-{address.role}-{address.index}"
            guard = await self._actor.arena(name, slot_bytes=SLOT_BYTES, slots=1)
            self._lender = Lender(cuda_ipc.device(uuid), this_host(), guard)
        return self._lender

    def _lend(self, lender: Lender, manifest: Manifest) -> Source | None:
        return lender.offer(manifest, self._learner.live())
