"""Which hosts are fit for a run: by what each found of itself, and by who reaches whom. And by
which of its addresses the head is best reached.

Decided without IO. Knows nothing of agents' lives or slots. Called by `hosts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from realnet.launch.records import Hello

SKEW_S = 30.0


def unfit_alone(hello: Hello) -> str:
    """Return why a host cannot be used, by its own checks and its clock; "" if it can.

    `wall_s` of the hello is how far its clock is from ours.
    """
    if abs(hello.wall_s) > SKEW_S:
        return f"its clock is off by {abs(hello.wall_s):.0f} s"
    return "; ".join(f"{c.what}: {c.text}" for c in hello.checks if not c.well)


def unfit_together(
    hellos: Mapping[str, Hello], told: Mapping[str, Mapping[str, bool]]
) -> dict[str, str]:
    """Return those whom most others cannot reach, or who reach only few of them, and why.

    `told` says for each agent which of the others it has reached.
    """
    why = {}
    for name, hello in hellos.items():
        others = [o for o in hellos if o != name]
        deaf = [hellos[o].host for o in others if not told[o].get(name)]
        if _most(deaf, others):
            why[name] = f"{', '.join(deaf)} cannot reach it at {hello.probe}"
        elif _most([o for o in others if not told[name].get(o)], others):
            why[name] = "it cannot reach the others"
    return why


def best_way(hellos: Iterable[Hello], order: Sequence[str]) -> str:
    """Return which of the head's endpoints most hosts can use, of equals the first in `order`."""
    usable = [h.ways or (h.way,) for h in hellos]
    return max(order, key=lambda e: sum(e in ways for ways in usable), default="")


def _most(some: Sequence[str], of: Sequence[str]) -> bool:
    return bool(of) and len(some) * 2 > len(of)
