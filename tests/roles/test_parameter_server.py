"""The parameter server announces whole, checked, newer versions, before and after its death."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from realnet.errors import RealnetError
from realnet.roles.messages import (
    Announced,
    CommitVersion,
    Held,
    Location,
    Manifest,
    OpenSlot,
    Version,
)
from realnet.roles.parameter_server import ParameterServer, ParameterServerConfig
from realnet.roles.tables import Policy
from realnet.roles.trainer.publisher import write
from realnet.roles.weights import WeightReader, WeightsDamaged, WeightsGone, layout, tensors

SHAPE = (40, 3)


def version(number: int, branch: int = 0) -> Version:
    return Version("policy", branch, number)


class Shown:
    """The showing end of a state wire."""

    def __init__(self) -> None:
        self.value: Announced | None = None

    def set(self, value: Announced) -> None:
        self.value = value


class House:
    """A host whose shared memory outlives the servers started on it."""

    def __init__(self, bench: Any, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        bench.world.arena = self.arena
        self.shown = Shown()

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        path = self.folder / name
        with path.open("ab") as file:
            assert file.tell() in (0, slot_bytes * slots)
            file.truncate(slot_bytes * slots)
        return str(path)

    async def server(self) -> ParameterServer:
        """Start a server, as after a death."""
        self.shown = Shown()
        config, shared = ParameterServerConfig(), {Policy: Policy(model="new:llama")}
        made = await self.bench.start(ParameterServer, config, shared, {"announced": self.shown})
        assert isinstance(made, ParameterServer)
        return made

    def numbers(self) -> list[int]:
        """What is announced, newest first."""
        value = self.shown.value
        if value is None or value.newest is None:
            return []
        return [held.manifest.version.number for held in (value.newest, *value.older)]

    def newest(self) -> Held:
        assert self.shown.value is not None
        assert self.shown.value.newest is not None
        return self.shown.value.newest


@pytest.fixture
def house(bench: Any, tmp_path: Path) -> House:
    return House(bench, tmp_path)


def weights(v: Version) -> list[tuple[str, np.ndarray, str]]:
    array = np.full(SHAPE, v.branch * 1000 + v.number, np.float32)
    return [("w", array, "float32")]


async def written(server: ParameterServer, v: Version) -> tuple[Manifest, Location]:
    """Open a slot and write a version into it."""
    plan = layout(v, [("w", "float32", SHAPE)])
    location = (await server.open_slot(OpenSlot(v, plan.num_bytes))).location
    return write(plan, location, weights(v)), location


async def publish(server: ParameterServer, v: Version) -> Held:
    manifest, location = await written(server, v)
    await server.commit_version(CommitVersion(manifest, location))
    return Held(manifest, location)


def read(held: Held) -> float:
    reader, out = WeightReader(), bytearray(held.manifest.num_bytes)
    try:
        reader.copy(held, out)
    finally:
        reader.close()
    values = tensors(held.manifest, out)["w"]
    assert (values == values[0, 0]).all()
    return float(values[0, 0])


async def test_versions_are_announced_newest_first_and_the_oldest_goes(house: House) -> None:
    server = await house.server()
    seen = []
    for number in range(7):
        await publish(server, version(number))
        seen.append(house.numbers())
        assert read(house.newest()) == number
    assert seen[:4] == [[0], [1, 0], [2, 1, 0], [3, 2, 1, 0]]
    assert seen[4:] == [[4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]


async def test_a_version_that_is_being_written_is_not_announced(house: House) -> None:
    server = await house.server()
    for number in range(4):
        await publish(server, version(number))
    oldest = house.shown.value.older[-1]  # type: ignore[union-attr]
    assert read(oldest) == 0
    await written(server, version(4))
    assert house.numbers() == [3, 2, 1]
    with pytest.raises(WeightsGone):
        read(oldest)
    await written(server, version(4))  # its writer died and came again: the same slot
    assert house.numbers() == [3, 2, 1]
    assert read(house.newest()) == 3


async def test_after_its_death_it_announces_what_is_whole(house: House) -> None:
    server = await house.server()
    for number in range(5):
        await publish(server, version(number))
    await written(server, version(5))
    again = await house.server()
    assert house.numbers() == [4, 3, 2]
    assert "parameterserver/0 serves policy v0.4 again" in house.bench.world.events
    assert read(house.newest()) == 4
    await publish(again, version(5))
    assert house.numbers()[0] == 5


async def test_a_slot_that_was_opened_before_its_death_can_be_committed_after(
    house: House,
) -> None:
    server = await house.server()
    await publish(server, version(0))
    manifest, location = await written(server, version(1))
    again = await house.server()
    for _ in range(2):  # the first reply was lost
        await again.commit_version(CommitVersion(manifest, location))
    assert house.numbers() == [1, 0]


async def test_old_equal_and_foreign_versions_are_refused(house: House) -> None:
    server = await house.server()
    await publish(server, version(5))
    for v in (version(5), version(4)):
        with pytest.raises(RealnetError, match=r"is not newer than policy v0\.5"):
            await server.open_slot(OpenSlot(v, 512))
    await publish(server, version(3, branch=1))  # a resumed trainer: an earlier step, a new branch
    assert house.newest().manifest.version == version(3, branch=1)
    with pytest.raises(RealnetError, match=r"policy v0\.6 is not newer than policy v1\.3"):
        await server.open_slot(OpenSlot(version(6), 512))
    with pytest.raises(RealnetError, match="cannot grow"):
        await server.open_slot(OpenSlot(version(4, branch=1), 10**7))


async def test_damaged_bytes_are_never_announced(house: House) -> None:
    server = await house.server()
    await publish(server, version(0))
    manifest, location = await written(server, version(1))
    path = Path(location.path)
    data = bytearray(path.read_bytes())
    at = location.slot * location.slot_bytes + 2**20 + 17
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsDamaged, match=r"policy v0\.1 .* publish it again"):
        await server.commit_version(CommitVersion(manifest, location))
    assert house.numbers() == [0]
    await publish(server, version(1))
    assert house.numbers() == [1, 0]


async def test_a_slot_that_was_opened_again_cannot_be_committed(house: House) -> None:
    server = await house.server()
    for number in range(4):
        await publish(server, version(number))
    manifest, location = await written(server, version(4))
    await written(server, version(4))
    with pytest.raises(RealnetError, match="or again since"):
        await server.commit_version(CommitVersion(manifest, location))
    other = msgspec.structs.replace(location, slot=2)
    with pytest.raises(RealnetError, match="slot 2 was not opened"):
        await server.commit_version(CommitVersion(manifest, other))


async def test_a_note_that_does_not_read_is_a_fresh_start(house: House, tmp_path: Path) -> None:
    (tmp_path / "parameterserver-0.arena.json").write_text("{")
    server = await house.server()
    assert house.shown.value is None
    await publish(server, version(0))
    assert house.numbers() == [0]


async def test_the_note_of_an_earlier_attempt_leads_nowhere(house: House, tmp_path: Path) -> None:
    """Its memory vanished with it; this attempt may have more slots or a larger model."""
    await publish(await house.server(), version(0))
    (tmp_path / "weights-policy").unlink()
    note = tmp_path / "parameterserver-0.arena.json"
    then = msgspec.json.decode(note.read_bytes())
    note.write_bytes(msgspec.json.encode({**then, "attempt": 0, "slot_bytes": 2**21}))
    server = await house.server()
    assert house.shown.value is None
    await publish(server, version(0, branch=1))
    assert house.numbers() == [0]
    assert msgspec.json.decode(note.read_bytes()) == then
