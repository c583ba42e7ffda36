"""A gang in one loop: one address, one incarnation, restarted as one; its ranks ask each other."""

from __future__ import annotations

import asyncio
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ranks import TOPOLOGY

from realnet import ConfigError, PeerDied
from realnet.address import Address, parse_address
from realnet.gang import Gang
from realnet.testing import Running, running
from realnet.waits import Waits

RANKS = ("trainer/0", "trainer/0.1", "trainer/0.2")


def topology(folder: Path) -> str:
    shutil.copy(Path(__file__).parent.parent / "ranks.py", folder)
    return TOPOLOGY


def lives(run: Running) -> set[int]:
    return {run.head.supervisor.slots[name].incarnation for name in RANKS}


def all_up(run: Running) -> bool:
    return all(run.is_up(slot) for slot in run.head.supervisor.slots)


def test_a_rank_has_an_address_that_reads_back() -> None:
    rank = Address("trainer", 1, 3, 2)
    assert (str(rank), rank.full) == ("trainer/1.2", "trainer/1.2~3")
    assert parse_address(rank.full) == rank
    for wrong in ("trainer/1.", "trainer/.1", "trainer/1.x"):
        with pytest.raises(ConfigError, match="is not an address"):
            parse_address(wrong)


async def test_wires_end_at_the_leader_and_ranks_ask_each_other(tmp_path: Path) -> None:
    async with running(topology(tmp_path), tmp_path) as run:
        await run.until(lambda: all_up(run))
        asker = run.actor("asker/0")
        module = import_module(type(asker).__module__)
        assert list(asker.trainer.peers) == ["trainer/0~1"]
        await run.until(lambda: all(_actor(run, r).gang.is_up for r in range(3)))
        assert await asker.trainer(module.Total()) == module.Sum(111)
        leader = _actor(run, 0)
        assert (leader.rank, leader.num_ranks) == (0, 3)
        assert (await _actor(run, 2).gang.ask(0, module.Give(0))).value == 1
        with pytest.raises(ConfigError, match=r"cannot ask rank 3: there are 1, 2"):
            await leader.gang.ask(3, module.Give(3))
        assert (asker.rank, asker.num_ranks, asker.gang.is_up) == (0, 1, True)


async def test_waiting_for_the_others_of_a_gang_names_those_who_lack() -> None:
    waits = Waits(lambda: 0.0)
    port = SimpleNamespace(peers={"trainer/0~1": ""})
    gang = Gang(Address("trainer", 0, 1, 1), 3, port, waits)  # type: ignore[arg-type]
    waiting = asyncio.ensure_future(gang.up())
    await asyncio.sleep(0)
    assert waits.of("trainer/0.1") == [("the other ranks of its gang", 0.0, ("trainer/0.2",))]
    port.peers["trainer/0.2~1"] = ""
    gang.heard()
    await waiting
    assert waits.of("trainer/0.1") == []


async def test_a_dead_rank_brings_all_back_under_one_new_incarnation(tmp_path: Path) -> None:
    async with running(topology(tmp_path), tmp_path) as run:
        await run.until(lambda: all_up(run))
        asker = run.actor("asker/0")
        module = import_module(type(asker).__module__)
        run.kill("trainer/0.2")
        await run.until(lambda: all_up(run) and lives(run) == {2})
        told = [e for e in run.events() if "died" in e or "started again" in e]
        assert told == [
            "trainer/0.2 died: killed by SIGKILL",
            "trainer/0 is started again (restart 1)",
        ]
        await run.until(lambda: list(asker.trainer.peers) == ["trainer/0~2"])
        await run.until(lambda: all(_actor(run, r).gang.is_up for r in range(3)))
        assert await asker.trainer(module.Total()) == module.Sum(111)
        with pytest.raises(PeerDied):
            await asker.trainer(module.Total(), to="trainer/0~1")


def _actor(run: Running, rank: int) -> Any:
    return run.actor(RANKS[rank])
