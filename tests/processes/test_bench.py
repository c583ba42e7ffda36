"""The benchmarks run, in small: realnet's side in real processes, no peers; and they can count."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def bench(folder: Path, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, BENCH / "run.py", *arguments, "--folder", folder],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_both_benchmarks_fill_one_file(tmp_path: Path, module: Any) -> None:
    bench(tmp_path, "loss", "--messages", "9000", "--tcp-messages", "3000")
    bench(tmp_path, "wire", "--quick", "--rounds", "1", "--only", "realnet,realnet_inproc,raw")
    found = json.loads((tmp_path / "wire.json").read_text())
    assert found.keys() >= module("figures").FLOORS.keys()
    measured = {name for name, value in found.items() if value is not None}
    assert measured == {
        *("ask_w64_vs_raw", "ask_w1_p50_vs_raw", "cpu_us_per_ask", "cpu_w64_vs_raw"),
        "inproc_asks_per_s",
        *("ask_p50_under_bulk_vs_idle", "kill_to_failed_ask_ms"),
        *("lost", "duplicated", "tcp_lost", "tcp_duplicated"),
    }
    assert found["lost"] == found["duplicated"] == 0
    assert found["tcp_lost"] == found["tcp_duplicated"] == 0


def test_ratios_are_of_one_round_and_of_the_faster_way(module: Any) -> None:
    figures = module("figures").figures

    def a_round(ours: float, sync: float, awaited: float) -> Any:
        rows = {"realnet": ours, "ray_sync": sync, "ray_async": awaited}
        return {name: {"w64_per_s": value} for name, value in rows.items()}

    rounds = [a_round(100, 10, 1), a_round(300, 1, 10), a_round(1000, 50, 40)]
    found = figures([*rounds, {"realnet": {}}], {})
    assert found["ask_w64_vs_ray"] == 20
    assert found["ask_w64_vs_xoscar"] is None


async def test_the_counter_sees_what_is_lost_and_doubled(module: Any) -> None:
    roles = module("loss_roles")
    counter = roles.Counter()
    await counter.start()
    for number in (0, 1, 1, 3, 3, 3, 7):
        counter.saw("told", number)
    counts = await counter.count(roles.Count(5))
    assert counts.lost == {"asked": 5, "told": 2, "item": 5}
    assert counts.duplicated == {"asked": 0, "told": 3 + 1, "item": 0}  # the 7 was never sent
