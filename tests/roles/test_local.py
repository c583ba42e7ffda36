"""`realnet.Local`: actors as plain objects, without a run; the example trains with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, check_code, section

from realnet import Actor, Config, ConfigError, Delivery, Inlet, Local, Message, Request, handles
from realnet.roles.parameter_server import ParameterServer
from realnet.topology.kinds import load_object


class Sum(Message):
    """How much has come."""

    total: int


class Total(Request[Sum]):
    """How much has come?"""


class Number(Message):
    """One number."""

    value: int


class NoConfig(Config):
    """Nothing."""


class Adder(Actor[NoConfig]):
    """Adds numbers up; a negative one is too much for it."""

    numbers = Inlet(Number)
    total = 0

    @numbers.handler
    async def add(self, item: Delivery[Number]) -> None:
        if item.body.value < 0:
            raise ValueError("a negative number")
        self.total += item.body.value

    @handles
    async def told(self, request: Total) -> Sum:
        return Sum(self.total)


async def test_a_script_sends_and_asks_and_hears_of_failures(tmp_path: Path) -> None:
    async with Local(tmp_path) as local:
        adder = await local.add(Adder)
        for value in (1, 2, 3):
            await local.send(adder, Number(value))
        while (await local.ask(adder, Total())).total < 6:
            pass
        with pytest.raises(ConfigError, match="adder is there already"):
            await local.add(Adder)
        with pytest.raises(ConfigError, match="adder does not answer Number"):
            await local.ask(adder, Number(1))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="adder takes no Sum; it takes: Number"):
            await local.send(adder, Sum(1))
        with pytest.raises(ConfigError, match=r"parameterserver needs Policy in shared="):
            await local.add(ParameterServer)
        await local.send(adder, Number(-1))
        with pytest.raises(ValueError, match="a negative number"):
            await local.ended()


@pytest.mark.slow
async def test_the_example_trains_without_a_topology(tmp_path: Path) -> None:
    main: Any = load_object("drive.py:main", ROOT / "examples" / "notebook", "test")
    rewards = await main(str(tmp_path))
    assert len(rewards) == 2
    assert all(0.0 < reward < 1.0 for reward in rewards)
    assert (tmp_path / "checkpoints" / "step_000002").is_dir()
    assert '"trained": 8' in (tmp_path / "ledger.json").read_text()


def test_the_code_on_the_page_is_the_code() -> None:
    pieces = section("embedding.md", "Without a run")
    assert check_code(pieces, ["examples/notebook/drive.py"]) == 1
