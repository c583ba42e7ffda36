"""The parameter server announces whole, checked, newer versions, before and after its death."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from server_house import House

from realnet.address import Address
from realnet.errors import ConfigError, RealnetError
from realnet.roles.messages import (
    CommitPart,
    CommitVersion,
    CopyHeld,
    FetchVersion,
    Held,
    Location,
    Manifest,
    OpenSlot,
    Source,
    Version,
)
from realnet.roles.parameter_server import ParameterServer, ParameterServerConfig
from realnet.roles.trainer.publisher import SlotWriter, write_part
from realnet.roles.weights import (
    ArenaSlots,
    WeightReader,
    WeightsDamaged,
    WeightsGone,
    disk,
    fill,
    layout,
    tensors,
)
from realnet.roles.weights.slices import part
from realnet.roles.weights.sources import this_host
from realnet.roles.weights.upload import packed
from realnet.watches import Death

SHAPE = (40, 3)


def version(number: int, branch: int = 0) -> Version:
    return Version("policy", branch, number)


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
    slots = SlotWriter()
    try:
        return slots.write(plan, location, weights(v)), location
    finally:
        slots.close()


async def publish(server: ParameterServer, v: Version) -> Held:
    manifest, location = await written(server, v)
    await server.commit_version(CommitVersion(manifest, location))
    return Held(manifest, location)


async def streamed(server: ParameterServer, held: Held) -> bytes:
    request = FetchVersion(held.manifest.version, held.manifest.digest)
    return b"".join([bytes(c.data) async for c in server.fetch_version(request)])


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


# ---------------------------------------------------------------- several writers


ROWS = {0: (0, 17), 1: (17, 12), 2: (29, 11)}


def share(v: Version, writer: int) -> tuple[Manifest, list[np.ndarray[Any, Any]]]:
    """What a writer has of a version: some rows."""
    start, size = ROWS[writer]
    whole = layout(v, [("w", "float32", SHAPE)])
    mine = part(whole, [("w", (start, 0), (size, SHAPE[1]))], writer)
    return mine, [weights(v)[0][1][start : start + size]]


async def opened(server: ParameterServer, v: Version, writer: int) -> Location:
    num_bytes = layout(v, [("w", "float32", SHAPE)]).num_bytes
    return (await server.open_slot(OpenSlot(v, num_bytes, 3, writer))).location


async def test_a_version_of_several_writers_is_announced_when_it_is_whole(house: House) -> None:
    server, v = await house.server(), version(0)
    locations = [await opened(server, v, writer) for writer in range(3)]
    assert len(set(locations)) == 1
    for writer in (2, 0):
        said = write_part(share(v, writer)[0], locations[0], share(v, writer)[1])
        for _ in range(2):  # the first reply was lost
            reply = await server.commit_part(CommitPart(said, locations[0], 3, writer))
        assert not reply.whole
        assert house.shown.value is None
    assert reply.missing == (1,)
    said = write_part(share(v, 1)[0], locations[0], share(v, 1)[1])
    assert (await server.commit_part(CommitPart(said, locations[0], 3, 1))).whole
    assert read(house.newest()) == 0
    assert house.newest().manifest == written_alone(v)
    assert (await server.commit_part(CommitPart(said, locations[0], 3, 1))).whole


def written_alone(v: Version) -> Manifest:
    plan = layout(v, [("w", "float32", SHAPE)])
    return fill(plan, memoryview(bytearray(plan.num_bytes)), [weights(v)[0][1]])


async def test_what_is_damaged_missing_or_doubled_of_a_writer_is_refused(house: House) -> None:
    server, v = await house.server(), version(0)
    where = await opened(server, v, 0)
    mine, values = share(v, 0)
    said = write_part(mine, where, values)
    wrong = msgspec.structs.replace(said, digest="0" * 32)
    with pytest.raises(WeightsDamaged, match=r"what writer 0 wrote of policy v0\.0 is damaged"):
        await server.commit_part(CommitPart(wrong, where, 2, 0))
    outside = msgspec.structs.replace(mine.tensors[0], start=(30, 0))
    with pytest.raises(RealnetError, match="does not lie inside"):
        await server.commit_part(
            CommitPart(msgspec.structs.replace(said, tensors=(outside,)), where, 2, 0)
        )
    await server.commit_part(CommitPart(said, where, 2, 0))
    with pytest.raises(RealnetError, match="written twice in part, by writers 0 and 0"):
        await server.commit_part(CommitPart(said, where, 2, 1))
    last = write_part(share(v, 2)[0], where, share(v, 2)[1])
    await server.commit_part(CommitPart(said, where, 2, 0))
    with pytest.raises(RealnetError, match="36 of the 120 numbers of w were written by nobody"):
        await server.commit_part(CommitPart(last, where, 2, 1))
    assert house.shown.value is None


async def test_a_writer_that_died_and_came_again_voids_what_the_others_wrote(house: House) -> None:
    server, v = await house.server(), version(0)
    where = await opened(server, v, 0)
    assert await opened(server, v, 1) == where
    await server.commit_part(CommitPart(write_part(*_to(where, v, 0)), where, 3, 0))
    again = await opened(server, v, 1)  # it died
    assert again.generation > where.generation
    with pytest.raises(RealnetError, match="or again since"):
        await server.commit_part(CommitPart(write_part(*_to(where, v, 2)), where, 3, 2))
    for writer in (0, 2):
        assert await opened(server, v, writer) == again
    for writer in range(3):
        reply = await server.commit_part(
            CommitPart(write_part(*_to(again, v, writer)), again, 3, writer)
        )
    assert reply.whole


def _to(where: Location, v: Version, writer: int) -> tuple[Any, ...]:
    mine, values = share(v, writer)
    return mine, where, values


async def test_parts_checked_before_a_servers_death_are_asked_for_again(house: House) -> None:
    server, v = await house.server(), version(0)
    await publish(server, v)
    v = version(1)
    where = await opened(server, v, 0)
    said = [write_part(*_to(where, v, writer)) for writer in range(3)]
    for writer in (0, 1):
        await server.commit_part(CommitPart(said[writer], where, 3, writer))
    again = await house.server()
    reply = await again.commit_part(CommitPart(said[2], where, 3, 2))
    assert reply.missing == (0, 1)
    for writer in reply.missing:
        reply = await again.commit_part(CommitPart(said[writer], where, 3, writer))
    assert reply.whole
    assert house.numbers() == [1, 0]


async def test_a_publisher_on_another_host_sends_the_bytes(house: House) -> None:
    server, v = await house.server(), version(0)
    where = await opened(server, v, 0)
    for writer in range(3):
        mine, values = share(v, writer)
        for record in packed(mine, where, values):
            await server.write_runs(record)
        told = write_part(mine, *_elsewhere(where, house.folder), values)
        reply = await server.commit_part(CommitPart(told, where, 3, writer))
    assert reply.whole
    assert read(house.newest()) == 0
    with pytest.raises(RealnetError, match="was not opened"):
        await server.write_runs(record)


def _elsewhere(where: Location, folder: Path) -> tuple[Location]:
    """Memory of another host, where a publisher has its own copy."""
    path = folder / "elsewhere"
    path.write_bytes(bytes((where.slot + 1) * where.slot_bytes))
    return (msgspec.structs.replace(where, path=str(path)),)


# ---------------------------------------------------------------- readers


async def test_a_version_is_streamed_as_it_is_and_refused_when_it_is_gone(house: House) -> None:
    server = await house.server()
    held = await publish(server, version(0))
    reader = WeightReader()
    with reader.mapped(house.newest()) as view:
        expected = bytes(view)
    assert await streamed(server, held) == expected
    reader.close()
    other = msgspec.structs.replace(held.manifest, digest="0" * 32)
    with pytest.raises(WeightsGone, match="not held any more"):
        await streamed(server, Held(other, held.location))
    for number in range(1, 5):
        await publish(server, version(number))
    with pytest.raises(WeightsGone, match="take the newest"):
        await streamed(server, held)


async def test_slots_with_readers_are_written_last_and_the_newest_never(house: House) -> None:
    """Three of four slots are being read: the fourth is used again and again. Then all are."""
    server = await house.server()
    for number in range(4):
        await publish(server, version(number))
    held = {h.manifest.version.number: h for h in (house.newest(), *house.shown.value.older)}  # type: ignore[union-attr]
    where = held[0].location
    reader = ArenaSlots(where.path, 4, where.slot_bytes, writable=False)
    for number in (0, 1):
        reader.lease(held[number].location.slot)
    await publish(server, version(4))
    assert house.numbers() == [4, 3, 1, 0]
    reader.lease(held[3].location.slot)
    reader.lease(house.newest().location.slot)
    await publish(server, version(5))  # nobody is waited for: the oldest goes
    assert house.numbers() == [5, 4, 3, 1]
    reader.close()
    assert read(house.newest()) == 5


async def test_relays_are_announced_until_they_die(house: House) -> None:
    server = await house.server()
    await publish(server, version(0))
    assert house.sources() == [f"shm {this_host()}", "stream"]
    copy = Source("shm", "b", "", Location("/there", 1, 2))
    await server.copy_held(CopyHeld("relay/0", "b"))
    assert house.shown.value.relays == ("b",)  # type: ignore[union-attr]
    await server.copy_held(CopyHeld("relay/0", "b", ((version(0), copy),)))
    assert house.sources() == [f"shm {this_host()}", "stream", "shm b"]
    await publish(server, version(1))
    assert house.sources() == [f"shm {this_host()}", "stream"]
    assert house.sources(1)[-1] == "shm b"
    await house.bench.until(lambda: "relay/0" in house.bench.world.deaths)
    house.bench.world.deaths["relay/0"].set_result(Death(Address("relay", 0, 1), "killed"))
    await house.bench.until(lambda: house.shown.value.relays == ())  # type: ignore[union-attr]
    assert house.sources(1) == [f"shm {this_host()}", "stream"]


async def test_what_is_on_disk_is_announced_again_after_a_resume(
    house: House, tmp_path: Path
) -> None:
    """The memory of an attempt is gone with it; its files are not."""
    server = await house.server(links=("stream", "disk"), keep=2)
    for number in range(3):
        await publish(server, version(number))
        await house.bench.until(lambda: "disk" in house.sources())
    (tmp_path / "weights-policy").unlink()
    note = tmp_path / "parameterserver-0.arena.json"
    then = msgspec.json.decode(note.read_bytes())
    note.write_bytes(msgspec.json.encode({**then, "attempt": 0}))
    broken = tmp_path / "weights" / "policy-000-00000009.safetensors"
    broken.write_bytes(b"not whole")
    server = await house.server(links=("stream", "disk"), keep=3)
    assert house.shown.value is not None
    assert house.shown.value.newest is None, "nobody writes with what another branch left"
    kept = house.shown.value.older
    assert [held.manifest.version.number for held in kept] == [2, 1]
    for held in kept:
        (source,) = held.sources
        out = memoryview(bytearray(held.manifest.num_bytes))
        disk.read(Path(source.at), held.manifest, out)
    await publish(server, version(0, branch=1))
    assert house.numbers() == [0, 2, 1]


async def test_with_disk_the_newest_versions_are_files(house: House) -> None:
    server = await house.server(links=("stream", "disk"), keep=2)
    for number in range(4):
        await publish(server, version(number))
        await house.bench.until(lambda: "disk" in house.sources())
    assert [house.sources(i) for i in range(4)] == [["stream", "disk"]] * 2 + [["stream"]] * 2
    files = sorted((house.folder / "weights").iterdir())
    assert [f.name for f in files] == [f"policy-000-0000000{n}.safetensors" for n in (2, 3)]
    held = house.newest()
    out = bytearray(held.manifest.num_bytes)
    disk.read(files[-1], held.manifest, out)
    assert tensors(held.manifest, out)["w"][0, 0] == 3


def test_a_server_that_nobody_can_read_from_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody could have a version"):
        ParameterServerConfig(links=())


def test_nccl_without_a_gpu_is_refused_before_anything_starts() -> None:
    ParameterServer.probe(ParameterServerConfig(), {}, Path())
    with pytest.raises(ConfigError, match=r"\[roles.parameter_server\] links = .*gpus = 1"):
        ParameterServer.probe(ParameterServerConfig(links=("nccl", "stream")), {}, Path())
