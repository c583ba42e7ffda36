"""From the rows of all rounds to the figures: medians of same-round ratios, and their floors.

Nothing here measures or prints. A figure is None when what it needs was not measured, because a
peer is not installed or failed. Called by `run.py` and `report.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

from measure import Rows

Round = dict[str, Rows]  # variant -> its rows
Figures = dict[str, float | None]
PEERS = {
    "ray": ("ray_sync", "ray_async"),
    "xoscar": ("xoscar",),
    "grpc": ("grpc_unary", "grpc_bidi"),
    "zmq_asyncio": ("zmq_asyncio",),
    "monarch": ("monarch",),
}
RATIOS = (  # figure, peer, row of it
    *((f"ask_w64_vs_{peer}", peer, "w64_per_s") for peer in PEERS),
    *((f"arrays_256k_vs_{p}", p, "a256k_mb_per_s") for p in ("ray", "xoscar", "monarch")),
    *((f"arrays_8m_vs_{p}", p, "a8m_mb_per_s") for p in ("ray", "monarch")),
)


class Floor(NamedTuple):
    """What a figure must reach; `most` when less is better."""

    value: float
    most: bool = False

    def met(self, figure: float) -> bool:
        return figure <= self.value if self.most else figure >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.value:g}"


FLOORS = {
    "ask_w64_vs_ray": Floor(20),
    "ask_w64_vs_xoscar": Floor(10),
    "ask_w64_vs_grpc": Floor(10),
    "ask_w64_vs_zmq_asyncio": Floor(8),
    "ask_w64_vs_raw": Floor(0.4),
    "ask_w1_p50_vs_raw": Floor(3.5, most=True),
    "cpu_us_per_ask": Floor(12, most=True),
    "inproc_asks_per_s": Floor(250_000),
    "arrays_256k_vs_ray": Floor(5),
    "arrays_256k_vs_xoscar": Floor(2),
    "arrays_8m_vs_ray": Floor(2),
    "ask_p50_under_bulk_vs_idle": Floor(2, most=True),
    "kill_to_failed_ask_ms": Floor(100, most=True),
    "lost": Floor(0, most=True),
    "duplicated": Floor(0, most=True),
    "tcp_ask_w64_vs_raw": Floor(0.25),
    "tcp_arrays_8m_vs_ray": Floor(0.8),
    "tcp_kill_to_failed_ask_ms": Floor(100, most=True),
    "tcp_lost": Floor(0, most=True),
    "tcp_duplicated": Floor(0, most=True),
}


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of what is there."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def best_of(values: Iterable[float | None], largest: bool = True) -> float | None:
    """Return the best of what is there."""
    known = [v for v in values if v is not None]
    return (max if largest else min)(known, default=None)


def ratio(round_: Round, ours: str, theirs: Iterable[str], row: str) -> float | None:
    """Return ours over theirs in one round; of several ways of one peer the largest counts."""
    mine = round_.get(ours, {}).get(row)
    other = best_of(round_.get(name, {}).get(row) for name in theirs)
    return mine / other if mine is not None and other else None


def figures(rounds: list[Round], loss: Round) -> Figures:
    """Return every figure, those over tcp with `tcp_` before their name."""
    found: Figures = {}
    for before, ours, raw in (("", "realnet", "raw"), ("tcp_", "realnet_tcp", "raw_tcp")):
        found |= {f"{before}{k}": v for k, v in _of_transport(rounds, ours, raw).items()}
        for name in ("lost", "duplicated"):
            found[f"{before}{name}"] = loss.get(ours, {}).get(name)
    found["inproc_asks_per_s"] = middle(
        r.get("realnet_inproc", {}).get("w64_per_s") for r in rounds
    )
    return dict(sorted(found.items(), key=_order))


def _order(item: tuple[str, float | None]) -> tuple[bool, int, str]:
    """Those with a floor first, in their order; those over tcp after all others."""
    name, known = item[0], list(FLOORS)
    return name.startswith("tcp_"), known.index(name) if name in known else len(known), name


def _of_transport(rounds: list[Round], ours: str, raw: str) -> Figures:
    def over(fn: Callable[[Round], float | None]) -> float | None:
        return middle(fn(r) for r in rounds)

    found: Figures = {}
    for figure, peer, row in RATIOS:
        ways = PEERS[peer]
        found[figure] = over(lambda r, w=ways, row=row: ratio(r, ours, w, row))  # type: ignore[misc]
    found["ask_w64_vs_raw"] = over(lambda r: ratio(r, ours, (raw,), "w64_per_s"))
    found["ask_w1_p50_vs_raw"] = over(lambda r: ratio(r, ours, (raw,), "w1_p50_us"))
    found["cpu_us_per_ask"] = over(lambda r: r.get(ours, {}).get("w64_cpu_us"))
    found["cpu_w64_vs_raw"] = over(lambda r: ratio(r, ours, (raw,), "w64_cpu_us"))
    found["ask_p50_under_bulk_vs_idle"] = over(lambda r: _bulk(r.get(ours, {})))
    found["kill_to_failed_ask_ms"] = over(lambda r: r.get(ours, {}).get("kill_ms"))
    return found


def _bulk(rows: Rows) -> float | None:
    return rows["bulk_p50_us"] / rows["idle_p50_us"] if "bulk_p50_us" in rows else None
