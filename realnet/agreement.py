"""The records of a run, compared: every process must mean the same by a record's name.

Each process says at hello what the records on its wires look like (a digest of names, types and
order of fields). The first to name a record sets it; one that means something else is refused, by
name, before any message of its is read as what it is not.

Knows nothing of sockets or records themselves. Kept by `head.py`.
"""

from __future__ import annotations

from collections.abc import Mapping


class Agreement:
    """The digests of a run: record (module and name) -> digest, and who has said so."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, dict[str, None]]] = {}

    def differs(self, slot: str, schemas: Mapping[str, str]) -> str:
        """Compare and keep those of a slot. Returns "" or what is wrong; then none is kept."""
        known = self._known
        wrong = {k for k, digest in schemas.items() if k in known and known[k][0] != digest}
        if not wrong:
            for kind, digest in schemas.items():
                known.setdefault(kind, (digest, {}))[1][slot] = None
            return ""
        records = ", ".join(sorted(wrong))
        said = {other for kind in wrong for other in known[kind][1]}
        others = ", ".join(sorted(said - {slot})) or f"its life before, {slot},"
        return (
            f"{slot} has other fields in {records} than {others}: the code differs between these "
            "processes (changed while the run was going on, or another commit on another host). "
            "Use the same code everywhere, and start the run again"
        )
