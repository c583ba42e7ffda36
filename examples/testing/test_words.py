"""How somebody tests a network of their own: docs/testing.md, as a file that pytest runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from realnet.testing import (
    RealProcesses,
    Simulation,
    Weather,
    no_leaks,
    plan_of,
    running,
    schedule,
    strike,
)

TOPOLOGY = """
extends = "words"
[roles.reader]
text = "text.txt"
skip = []
[roles.speller]
dictionary = "dictionary.txt"
"""
LINES = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("one fish two fish\n" * LINES)
    (tmp_path / "dictionary.txt").write_text("one two")
    (tmp_path / "words.toml").write_text(TOPOLOGY)
    return tmp_path


def test_in_one_loop(folder: Path) -> None:
    async def story() -> None:
        async with no_leaks(), running(TOPOLOGY, folder) as run:
            await run.until(lambda: run.is_up("tally/0"))
            tally = run.actor("tally/0")
            await run.until(lambda: len(tally.lines) >= 10)
            run.kill("counter/0")
            await run.until(lambda: len(tally.lines) == LINES)
            assert tally.words == {"one": LINES, "two": LINES, "fish": 2 * LINES}

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(3))
def test_in_virtual_time(folder: Path, seed: int) -> None:
    plan = plan_of(TOPOLOGY, folder)
    weather = Weather(loss=0.01, duplicate=0.05, reorder=0.05)
    simulation = Simulation(plan, seed=seed, weather=weather, folder=folder)
    slots = ["counter/0", "counter/1", "speller/0"]

    async def story() -> None:
        head = simulation.launch()
        await strike(schedule(seed, slots, num=6, to_s=3.0), simulation)
        well, text = await head.ended
        assert well, text
        await simulation.stop()

    simulation.run(story(), until_s=120.0)
    assert simulation.complaints() == []
    words = json.loads((folder / "words.json").read_text())["words"]
    assert words == {"fish": 2 * LINES, "one": LINES, "two": LINES}


def test_in_real_processes(folder: Path) -> None:
    times = "roles.reader.times=20"  # work for a few seconds
    command = [sys.executable, "-P", "-m", "realnet.cli", "run", "words.toml", "--set", times]
    process = subprocess.Popen([*command, "--name", "run"], cwd=folder)
    run = folder / "runs" / "run"
    try:
        while not (run / "status.json").is_file():
            assert process.poll() is None
            asyncio.run(asyncio.sleep(0.05))
        kills = schedule(7, ["counter/0", "counter/1"], num=3, to_s=2.0, kinds=["kill"])
        asyncio.run(strike(kills, RealProcesses(run)))
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert json.loads((run / "words.json").read_text())["words"]["one"] == 20 * LINES
