"""Where whole copies of versions are besides this server's memory, decided without IO.

Relays say what they have on other hosts, a trainer what it lends on its GPU. Who died has nothing.

Called by the parameter server.
"""

from __future__ import annotations

from realnet.roles.messages import CopyHeld, Source, Version


class Copies:
    """Copies that others have."""

    def __init__(self) -> None:
        self._relays: dict[str, CopyHeld] = {}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that have a living relay."""
        return tuple(sorted({said.host for said in self._relays.values() if said.awaited}))

    def said(self, request: CopyHeld) -> bool:
        """A relay said what it has; tell whether it is a new one."""
        new = request.relay not in self._relays
        self._relays[request.relay] = request
        return new

    def died(self, relay: str) -> None:
        """A relay is no more."""
        self._relays.pop(relay, None)

    def of(self, version: Version) -> tuple[Source, ...]:
        """Return the sources of a version that relays have."""
        return tuple(s for said in self._relays.values() for v, s in said.sources if v == version)
