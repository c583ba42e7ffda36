"""A trainer that lends on its GPU, a server that says so, and an engine on the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_scenarios import steps, weights
from pretend_gpu import PretendDevice
from publishing import Trainer, check, reader, taken
from server_house import House

from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.torch_engine import TorchEngine
from realnet.roles.messages import CommitVersion, CopyHeld, Manifest, Version
from realnet.roles.models.shape import shape_of
from realnet.roles.weights import WeightsDamaged, cuda_ipc
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.room import Room
from realnet.watches import Death

GPU = "GPU-0"
LINKS = ["cuda_ipc", "shm"]


@pytest.fixture
def house(bench: Any, tmp_path: Path) -> House:
    return House(bench, tmp_path)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendDevice:
    """The CPU is a GPU: what looks for one finds it."""
    made = PretendDevice(tmp_path, GPU)
    monkeypatch.setattr(cuda_ipc, "uuid_of", lambda device: GPU)
    monkeypatch.setattr(cuda_ipc, "device", lambda uuid: made)
    return made


def links(house: House) -> list[str]:
    return [s.link for s in house.newest().sources]


async def borrowed(
    house: House, intake: Intake, version: Version, device: str = GPU
) -> tuple[Manifest, Room]:
    announced, room = house.shown.value, Room()
    assert announced is not None
    known = [h for h in (announced.newest, *announced.older) if h is not None]
    (held,) = [h for h in known if h.manifest.version == version]
    return await intake.take(held, announced, room, device), room


async def test_a_version_is_lent_before_it_is_announced_and_an_engine_takes_it(
    house: House, gpu: PretendDevice
) -> None:
    server = await house.server(links=LINKS)
    trainer = Trainer(server)
    intake = reader(trainer, "shm")
    learner = trainer.learner
    shape = shape_of(learner.policy, learner.tokenizer.vocab_size, Path())
    engines = [TorchEngine(shape, learner.policy, EngineConfig(slots=2), seed=0) for _ in "ab"]
    ids = [np.array([5, 6, 7, 8], np.int32)]
    for seed in range(3):
        version = await trainer.publish()
        order = [type(a) for a in trainer.ask.asked]
        assert order.index(CopyHeld) < order.index(CommitVersion)
        assert links(house) == ["shm", "cuda_ipc"]
        manifest, room = await borrowed(house, intake, version)
        assert (intake.link, len(room)) == ("cuda_ipc", 0), "no byte of it on the host"
        assert room.loan is not None
        room.loan.check(manifest, "here")  # as for a canary: the trainer's digests
        engines[0].stage(room.weights(manifest), version)
        room.end_loan()
        _, found = await taken(house, reader(trainer, "shm"), version)
        check(found, learner)
        engines[1].stage(weights(learner), version)
        for engine in engines:
            engine.swap()
        one, other = (engine.score(ids)[0] for engine in engines)
        np.testing.assert_array_equal(one, other)
        steps(learner, (seed,))
    assert "trainer/0 lends versions on" in " ".join(house.bench.world.events)
    await intake.close()


async def test_while_one_reads_versions_go_by_memory_and_an_older_one_does(
    house: House, gpu: PretendDevice
) -> None:
    trainer = Trainer(await house.server(links=LINKS))
    intake = reader(trainer, "shm")
    first = await trainer.publish()
    _, room = await borrowed(house, intake, first)
    second = await trainer.publish()
    assert links(house) == ["shm"], "not lent: somebody reads"
    manifest, other = await borrowed(house, intake, second)
    assert (intake.link, other.loan, len(other)) == ("shm", None, manifest.num_bytes)
    room.end_loan()
    third = await trainer.publish()
    assert links(house) == ["shm", "cuda_ipc"]
    await borrowed(house, intake, second)  # pinned
    assert intake.link == "shm"
    _, room = await borrowed(house, intake, third)
    assert intake.link == "cuda_ipc"
    room.end_loan()
    await intake.close()


async def test_what_cannot_be_borrowed_comes_by_memory(
    house: House, gpu: PretendDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(await house.server(links=LINKS))
    intake = reader(trainer, "shm")
    version = await trainer.publish()
    for device in ("", "GPU-7"):  # an engine on the CPU, one on another GPU
        await borrowed(house, intake, version, device)
        assert intake.link == "shm"
    buffer = np.memmap(gpu.folder / "gpu-0", np.uint8)
    buffer[100] ^= 4
    manifest, room = await borrowed(house, intake, version)
    assert intake.link == "shm"
    assert "is damaged" in intake.refused
    buffer[100] ^= 4
    _, room = await borrowed(house, intake, version)
    assert room.loan is not None
    buffer[100] ^= 4  # after it was borrowed: a canary finds it
    with pytest.raises(WeightsDamaged, match="as generator/0 has it is damaged"):
        room.loan.check(manifest, "as generator/0 has it")
    room.end_loan()
    await intake.close()


async def test_a_trainer_that_cannot_lend_says_so_once_and_goes_on(
    house: House, gpu: PretendDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(buffer: Any) -> Any:
        raise RuntimeError("CUDA error: invalid argument (expandable segments)")

    monkeypatch.setattr(gpu, "share", broken)
    trainer = Trainer(await house.server(links=LINKS))
    for _ in range(3):
        await trainer.publish()
        assert links(house) == ["shm"]
    said = [e for e in trainer.around.events if "lends no versions" in e]
    assert said == [
        "trainer/0 lends no versions on its GPU: CUDA error: invalid argument (expandable segments)"
    ]


async def test_nothing_is_lent_unasked_and_nothing_by_the_dead(
    house: House, gpu: PretendDevice
) -> None:
    server = await house.server(links=["shm"])
    trainer = Trainer(server)
    await trainer.publish()
    assert not any(isinstance(a, CopyHeld) for a in trainer.ask.asked)
    lends = await house.server(links=LINKS)
    trainer.ask.server = lends
    await trainer.publish()
    assert links(house) == ["shm", "cuda_ipc"]
    assert house.shown.value is not None
    assert house.shown.value.relays == (), "nobody waits for what it lends"
    await house.bench.until(lambda: "trainer/0" in house.bench.world.deaths)
    house.bench.world.deaths["trainer/0"].set_result(Death("trainer/0", "killed"))
    await house.bench.until(lambda: links(house) == ["shm"])
    adapters = Trainer(lends, lora={"rank": 2})
    adapters.branch = 1
    await adapters.publish()
    assert links(house) == ["shm"], "adapters are small: they move"


async def test_a_model_on_no_gpu_lends_nothing(house: House) -> None:
    trainer = Trainer(await house.server(links=LINKS))
    await trainer.publish()
    assert links(house) == ["shm"]
    assert trainer.around.events == []
