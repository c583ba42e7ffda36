"""docs/runs.md says which keys of a run cannot change: exactly those that are marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from realnet.changes import Fixed
from realnet.config import Config
from realnet.roles.tables import Policy, Task
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.topology.catalogue import notes, tables_in

PAGE = Path(__file__).parents[1] / "docs" / "runs.md"


def fixed(record: type[Config], path: str) -> Iterator[str]:
    """Yield the keys of a table that bear the mark."""
    for field in msgspec.structs.fields(record):
        if any(isinstance(note, Fixed) for note in notes(field.type)):
            yield f"{path}.{field.encode_name}"
        for nested in tables_in(field.type):
            yield from fixed(nested, f"{path}.{field.encode_name}")


def test_the_page_names_every_key_that_is_fixed_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("| key | because |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = set()
    for cell in cells:
        words = [w.partition(" = ")[0] for w in re.findall(r"`([^`]+)`", cell)]
        prefix = ""
        for word in words:
            prefix = word.rpartition(".")[0] or prefix  # "`tasks.X.data`, `use`"
            named.add(f"{prefix}.{word.rpartition('.')[2]}")
    marked = {
        *fixed(Policy, "policy"), *fixed(Task, "tasks.X"), *fixed(TrainerConfig, "roles.trainer")
    }  # fmt: skip
    assert named == marked
