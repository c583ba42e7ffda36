"""A learner with adapters, a parameter server and those who read: only adapters move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from learner_scenarios import steps, weights
from publishing import Trainer, check, reader, taken
from server_house import House

from realnet.errors import RealnetError
from realnet.roles.messages import (
    Announced,
    CommitVersion,
    Held,
    OpenSlot,
    Version,
    WriteRuns,
)
from realnet.roles.parameter_server import ParameterServer
from realnet.roles.weights.sources import this_host

pytest.importorskip("peft")
LORA: dict[str, Any] = {"lora": {"rank": 2, "alpha": 5, "targets": ["q_proj", "down_proj"]}}


@pytest.fixture
def house(bench: Any, tmp_path: Path) -> House:
    return House(bench, tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
async def test_the_base_moves_once_and_versions_are_adapters(house: House, dtype: str) -> None:
    server = await house.server(links=["shm", "stream"])
    trainer = Trainer(server, dtype, **LORA)
    near, far = reader(trainer, "shm"), reader(trainer, "stream", host="there")
    for seed in range(3):
        version = await trainer.publish()
        manifest, found = await taken(house, near, version)
        check(found, trainer.learner)
        _, streamed = await taken(house, far, version)
        check(streamed, trainer.learner)
        over = house.newest().manifest.over
        assert over is not None
        # With a canary goes the digest of the whole, as the trainer made it.
        assert over.whole_digest == (manifest.digest if seed == 0 else "")
        steps(trainer.learner, (seed,))
    base, *adapters = trainer.committed()
    item = 4 if dtype == "fp32" else 2
    num = sum(w.numel() for _, w in trainer.learner.named)
    aligned = sum(-(-w.numel() * item // 64) * 64 for _, w in trainer.learner.named)
    assert adapters == [aligned] * 3
    assert base > 10 * item * num
    names = [v.policy for v in trainer.ask.sent]
    assert names == ["policy:base", "policy", "policy", "policy"]
    rows = [row for row in house.bench.world.metrics if "check_s" in row]
    assert [(row["bytes"], row["base"]) for row in rows] == [
        *((base, 1.0), *((size, 0.0) for size in adapters)),
    ]
    for intake in (near, far):
        await intake.close()


async def test_a_base_of_coarse_numbers_goes_out_in_bf16(house: House) -> None:
    """The weights of a folder in bf16, trained in fp32: half the bytes, and the same numbers."""
    trainer = Trainer(await house.server(), **LORA)
    for _, weight in trainer.learner.model.named_parameters():
        if not weight.requires_grad:
            weight.data.copy_(weight.data.bfloat16())
    version = await trainer.publish()
    (base,) = house.shown.value.bases  # type: ignore[union-attr]
    assert {t.dtype for t in base.manifest.tensors} == {"bfloat16"}
    intake = reader(trainer, "shm")
    manifest, found = await taken(house, intake, version)
    assert {t.dtype for t in manifest.tensors} == {"float32"}
    check(found, trainer.learner)
    await intake.close()


async def test_deaths_of_trainer_and_server_do_not_move_the_base_again(house: House) -> None:
    trainer = Trainer(await house.server(), **LORA)
    await trainer.publish()
    trainer.branch += 1
    trainer.begin()  # resumed: a branch of its own, the same base
    await trainer.publish()
    trainer.ask.server = await house.server()
    assert house.numbers() == [1, 0]
    version = await trainer.publish()
    base, *adapters = trainer.committed()
    assert len(adapters) == 3
    assert base > max(adapters)
    intake = reader(trainer, "shm")
    _, found = await taken(house, intake, version)
    check(found, trainer.learner)
    await intake.close()


async def test_the_base_stays_however_many_versions_go(house: House) -> None:
    trainer = Trainer(await house.server(), **LORA)
    intake = reader(trainer, "stream", host="there")
    for _ in range(7):
        version = await trainer.publish()
    assert house.numbers() == [6, 5, 4, 3]
    _, found = await taken(house, intake, version)
    check(found, trainer.learner)
    await intake.close()


async def test_a_server_that_lost_the_base_is_given_it_again(house: House) -> None:
    trainer = Trainer(await house.server(), **LORA)
    await trainer.publish()
    (house.folder / "parameterserver-0.base.json").unlink()
    (house.folder / "base-policy").unlink()
    server = await house.server()
    newest = house.newest().manifest
    assert house.shown.value is not None
    assert not house.shown.value.bases
    with pytest.raises(RealnetError, match=r"is laid over policy:base v0\.0, which is not held"):
        await server.commit_version(
            CommitVersion(
                msgspec.structs.replace(newest, version=Version("policy", 0, 1)),
                (await server.open_slot(OpenSlot(Version("policy", 0, 1), 100))).location,
            )
        )
    trainer.ask.server = server
    await trainer.publish()
    base, first, again, second = trainer.committed()
    assert (base, first) == (again, second)


async def test_another_base_takes_its_place_and_what_was_over_it_goes(house: House) -> None:
    server = await house.server()
    await Trainer(server, **LORA).publish()
    other = Trainer(server, "bf16", **LORA)
    other.branch = 1
    version = await other.publish()
    assert house.numbers() == [0]
    assert house.newest().manifest.version == version
    intake = reader(other, "shm")
    _, found = await taken(house, intake, version)
    check(found, other.learner)
    await intake.close()


async def test_links_that_late_comers_cannot_use_are_refused_by_name(house: House) -> None:
    trainer = Trainer(await house.server(links=["gloo"]), **LORA)
    with pytest.raises(RealnetError, match=r'what they are laid over does not: add "stream"'):
        await trainer.publish()


async def test_files_hold_the_base_once_and_are_found_after_a_resume(house: House) -> None:
    table = {"links": ["stream", "disk"], "keep": 2}
    trainer = Trainer(await house.server(**table), **LORA)
    folder = house.folder / "weights"
    want: dict[int, dict[str, Any]] = {}
    for seed in range(4):
        await trainer.publish()
        want[seed] = weights(trainer.learner)
        await house.bench.until(lambda: "disk" in house.sources())
        steps(trainer.learner, (seed,))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *("policy-000-00000002.safetensors", "policy-000-00000003.safetensors"),
        "policy:base-000-00000000.safetensors",
    ]
    sizes = [path.stat().st_size for path in sorted(folder.iterdir())]
    assert sizes[2] > 3 * sizes[1]
    for note in ("arena", "base"):  # another attempt: the memory of this one is gone
        (house.folder / f"parameterserver-0.{note}.json").unlink()
        (house.folder / f"{'weights' if note == 'arena' else 'base'}-policy").unlink()
    server = await house.server(**table)
    intake = reader(trainer, "disk", host="there")
    for number in (2, 3):
        _, found = await taken(house, intake, Version("policy", 0, number))
        for name, weight in want[number].items():
            np.testing.assert_array_equal(found[name], weight)
    trainer.ask.server, trainer.branch, trainer.published = server, 1, 0
    trainer.begin()
    last = await trainer.publish()
    _, found = await taken(house, reader(trainer, "stream", host="there"), last)
    check(found, trainer.learner)
    await house.bench.until(lambda: "disk" in house.sources())
    assert [p.name for p in folder.iterdir() if "base" in p.name] == [names[2]], "not again"
    (folder / "policy:base-000-00000000.safetensors").unlink()
    bare = await house.server(**table)
    assert isinstance(bare, ParameterServer)
    assert all(h.manifest.version.branch for h in known(house)), "without a base they are none"
    await intake.close()


def known(house: House) -> list[Held]:
    announced: Announced | None = house.shown.value
    assert announced is not None
    return [h for h in (announced.newest, *announced.older) if h is not None]


async def test_a_publisher_on_another_host_sends_base_and_adapters(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALNET_HOST", "there")
    this_host.cache_clear()
    server = await house.server()
    this_host.cache_clear()
    monkeypatch.setenv("REALNET_HOST", "here")
    trainer = Trainer(server, **LORA)
    version = await trainer.publish()
    assert any(isinstance(a, WriteRuns) for a in trainer.ask.asked)
    intake = reader(trainer, "stream", host="here")
    _, found = await taken(house, intake, version)
    check(found, trainer.learner)
    await intake.close()
    this_host.cache_clear()
