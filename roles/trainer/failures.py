"""What happens to a batch whose loss or gradient is not finite: kept as a file, and counted.

The weights are as before the step and the tickets are dropped with the reason; when it happens
several times in a row the run stops, with the evidence at hand. It stops, too, when ticket after
ticket is set aside, or group after group dropped. Knows nothing of models. Called by the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from realnet.errors import ConfigError
from realnet.roles.messages import Group
from realnet.roles.trainer import records
from realnet.roles.trainer.store import Store


class Diverged(ConfigError):
    """Several batches in a row gave no finite loss. A restart would end the same way."""


class Fruitless(ConfigError):
    """Many tickets in a row were of no use. A restart would end the same way."""


def judge_arrivals(store: Store, asides: int, unfit: int) -> None:
    """Raise Fruitless when nothing but what cannot be trained on has come for long.

    `asides`, `unfit`: how many tickets set aside, and groups dropped, in a row are too many.
    """
    _judge_asides(store, asides)
    if store.unfit_run >= unfit:
        raise Fruitless(
            f"[roles.trainer].loss.dynamic_sampling dropped the last {store.unfit_run} groups and "
            f"kept none between; the last one: {store.ledger.notes[-1][2]}. There is nothing to "
            "compare: the tasks are too hard or too easy for this policy, or their reward is "
            "broken (look at samples.jsonl). Change the tasks, set loss.dynamic_sampling = false, "
            "or raise [roles.trainer].unfit, and go on with --resume"
        )


def _judge_asides(store: Store, limit: int) -> None:
    if store.fruitless >= limit:
        raise Fruitless(
            f"the last {store.fruitless} tickets were set aside and none was answered between; "
            f"the last one: {store.ledger.notes[-1][2]}. Mend that and go on with --resume, or "
            "raise [roles.trainer] set_aside"
        )


class Fruits:
    """Tells, long before the run is given up, that a filter keeps nothing: at two batches in a row,
    and whenever it has become twice as many."""

    def __init__(self) -> None:
        self._next = 0

    def look(self, unfit_run: int, batch: int) -> str:
        """Return what is to be told when so many groups in a row were dropped; "" for nothing."""
        if unfit_run < 2 * batch:
            self._next = 2 * batch
            return ""
        if unfit_run < self._next:
            return ""
        self._next = 2 * unfit_run
        return (
            f"no step is possible: [roles.trainer].loss.dynamic_sampling dropped the last "
            f"{unfit_run} groups that came and kept none"
        )


class Failures:
    """The failed steps of one trainer, in `folder`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.kept: list[Path] = []  # of the failures in a row
        self.skipped = 0  # steps not taken since the trainer started

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
        self.skipped += 1
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
