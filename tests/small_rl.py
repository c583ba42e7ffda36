"""A small RL topology, as text: a test says what it has otherwise, and repeats nothing of the rest.

Called by tests that need a plan, a run's folder or a run of a model that learns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realnet.cli import _toml

Tables = Mapping[str, Mapping[str, Any]]
SHAPE = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16}
BASE: Tables = {
    "run": {"until": {"steps": 4}},
    "policy": {
        "model": "new:llama",
        "tokenizer": "new:chars",
        "shape": SHAPE,
        "context": 80,
        "max_tokens": 56,
    },
    "tasks.addz": {"data": "new:addz", "reward": {"exact": 1.0}},
    "tasks.held": {"like": "addz", "use": "eval"},
    "roles.generator": {"engine": {"kind": "torch", "slots": 8}},
}


def topology(changes: Tables | None = None, *, title: str = "small") -> str:
    """Return the text. What `changes` has of a table replaces those keys; None takes one out."""
    lines = ['extends = "rl"', f'title = "{title}"']
    changes = changes or {}
    for name in dict.fromkeys((*BASE, *changes)):
        table = {**BASE.get(name, {}), **changes.get(name, {})}
        lines += [f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items() if v is not None)]
    return "\n".join(lines) + "\n"
