"""Where whole copies of versions are besides the parameter server's memory, decided without IO.

Relays say what they have; files are written one by one. A relay that died has nothing.

Called by the parameter server.
"""

from __future__ import annotations

from collections.abc import Collection

from realnet.roles.messages import CopyHeld, Held, Source, Version


class Copies:
    """Copies on other hosts and on disk."""

    def __init__(self) -> None:
        self._relays: dict[str, CopyHeld] = {}
        self.files: dict[Version, Held] = {}  # in a file, and perhaps in no memory any more

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that have a living relay."""
        return tuple(sorted({said.host for said in self._relays.values()}))

    def said(self, request: CopyHeld) -> bool:
        """A relay said what it has; tell whether it is a new one."""
        new = request.relay not in self._relays
        self._relays[request.relay] = request
        return new

    def died(self, relay: str) -> None:
        """A relay is no more."""
        self._relays.pop(relay, None)

    def of(self, version: Version) -> tuple[Source, ...]:
        """Return the sources of a version that are known here."""
        found = [s for said in self._relays.values() for v, s in said.sources if v == version]
        file = self.files.get(version)
        return (*found, *(file.sources if file is not None else ()))

    def only_filed(self, in_memory: Collection[Version]) -> list[Held]:
        """Return the versions that are in files and not in memory."""
        return [held for version, held in self.files.items() if version not in in_memory]
