"""What happens to a batch whose loss or gradient is not finite: kept as a file, and counted.

The weights are as before the step and the tickets are dropped with the reason; when it happens
several times in a row the run stops, with the evidence at hand. Knows nothing of models. Called by
the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from realnet.errors import RealnetError
from realnet.roles.messages import Group
from realnet.roles.trainer import records


class Diverged(RealnetError):
    """Several batches in a row gave no finite loss."""


class Failures:
    """The failed steps of one trainer, in `folder`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.kept: list[Path] = []  # of the failures in a row

    def finite(self) -> None:
        """A step went well."""
        self.kept.clear()

    def keep(self, step: int, groups: Sequence[Group], reason: str) -> Path:
        """Write the batch of a failed step to a file and return its path (blocking)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:06d}-{len(self.kept) + 1}.msgpack"
        path.write_bytes(records.pack_groups(groups))
        path.with_suffix(".txt").write_text(reason + "\n", encoding="utf-8")
        self.kept.append(path)
        return path

    def judge(self, step: int, reason: str) -> None:
        """Raise Diverged when this is one too many in a row."""
        if len(self.kept) >= self.limit:
            files = ", ".join(str(path) for path in self.kept)
            raise Diverged(
                f"step {step}: {len(self.kept)} batches in a row gave no finite loss ({reason}). "
                f"The weights are those before them; the batches are in {files}. Try a lower "
                "trainer.lr, or resume from an earlier checkpoint"
            )
