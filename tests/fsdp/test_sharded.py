"""The learner cut over ranks computes what the plain one does, and survives what it survives."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from learner_scenarios import NOW, Stage, age, batch, steps, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from realnet.errors import CheckpointError
from realnet.roles.messages import Manifest, Over
from realnet.roles.trainer import learner_files, learner_reference
from realnet.roles.weights import fill, tensors
from realnet.roles.weights.adapters import whole_layout
from realnet.roles.weights.merging import lay_over

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Play = Callable[..., Any]
ONE_UPDATE = {"minibatches": 1, "grad_clip": 0.0, "betas": (0.9, 0.99)}


def saved(folder: Path, kind: str, like: dict[str, Any]) -> dict[str, Any]:
    """Return one kind of a saved state's tensors, whole."""
    into = {f"{kind}/{n}": torch.zeros(a.shape, dtype=torch.float64) for n, a in like.items()}
    with warnings.catch_warnings(action="ignore"):  # that there is no gang here is meant
        dcp.load(into, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    return {name.removeprefix(f"{kind}/"): tensor.numpy() for name, tensor in into.items()}


def plain_gradient(stage: Stage) -> dict[str, Any]:
    """Return the gradient of the only update of a step of the plain learner."""
    made = stage.plain()
    caught: dict[str, Any] = {}

    def catch() -> None:
        caught.update({n: w.grad.numpy().copy() for n, w in made.named if w.grad is not None})

    made.optimizer.update = catch  # type: ignore[method-assign]
    made.step(batch(), NOW, age)
    return caught


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_gradient_does_not_depend_on_the_number_of_ranks(
    play: Play, ranks: int, tmp_path: Path
) -> None:
    # 16 answers in micro-batches of about 3: with 4 ranks, some have nothing to do in some passes
    configs = [
        {**ONE_UPDATE, "loss": {"normalise": how}, "micro_tokens": 36}
        for how in ("tokens", "sequences")
    ]
    given: dict[str, Any] = {"configs": configs, "fine": True, "folder": str(tmp_path)}
    for number, names in enumerate(play("train_each", ranks, **given)):
        expected = plain_gradient(Stage(0, 1, **{**given, "configs": [configs[number]]}))
        found = saved(tmp_path / str(number), "exp_avg", expected)
        assert list(found) == names
        # Norms of transformers compute in fp32 whatever the model is: gradients of what answers
        # share are added before that or after it, as they lie together or not.
        within = 1e-6 * max(abs(gradient).max() for gradient in expected.values())
        assert within > 1e-10
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name] / 0.1, gradient, rtol=0, atol=within)


KL_TO_START = {
    "micro_tokens": 36,
    "activations": "recompute",
    "reference": "start",
    "loss": {"kl": "loss", "kl_beta": 0.1, "proximal": "recompute"},
}


def close(found: list[dict[str, float]], expected: list[dict[str, float]], within: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=within, abs=within), name


def test_steps_are_those_of_the_plain_learner_and_go_on_with_other_numbers_of_ranks(
    play: Play, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"configs": [KL_TO_START], "fine": True, "folder": str(tmp_path)}
    made = play("five", 2, **given)
    plain = Stage(0, 1, **{**given, "folder": str(tmp_path / "plain")}).plain()
    plain.refer(tmp_path / "plain")
    close(made["signs"], steps(plain, range(5)), 1e-6)
    assert made["signs"][4]["kl_ref"] > 0.0, "it has moved away from the reference"
    for name, weight in weights(plain).items():
        np.testing.assert_allclose(made["weights"][name], weight, atol=1e-6)
    assert made["files"] == [
        f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)
    ]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export").state_dict()
    for name, weight in made["weights"].items():
        np.testing.assert_array_equal(exported[name].numpy(), weight)

    same = play("go_on", 2, **given)
    assert same["signs"] == made["signs"][2:3], "bit for bit, though it was written meanwhile"
    forked = play("fork", 2, **given)
    assert (forked["said"], forked["steps"]) == ("with its optimizer's moments", 1)
    assert 0.0 <= forked["signs"][0]["kl_ref"] < made["signs"][2]["kl_ref"], "it refers to itself"
    reference = load_file(tmp_path / "fork" / "reference.safetensors")
    for name, weight in forked["weights"].items():
        np.testing.assert_allclose(reference[name].numpy(), weight, rtol=1e-6)
    shutil.rmtree(tmp_path / "again")
    alone = play("go_on", 1, **given)
    close(alone["signs"], made["signs"][2:3], 1e-6)
    (tmp_path / "state").rename(tmp_path / "first")
    (tmp_path / "again").rename(tmp_path / "state")
    assert len(list((tmp_path / "state").glob("shard-*"))) == 1
    close(play("go_on", 2, **given)["signs"], made["signs"][3:4], 1e-6)


def test_a_number_that_is_none_on_one_rank_undoes_the_step_on_all(
    play: Play, tmp_path: Path
) -> None:
    config = {"micro_tokens": 36, "activations": "recompute", "minibatches": 2}
    given: dict[str, Any] = {"configs": [config], "folder": str(tmp_path)}
    made = play("bad_batch", 2, **given, policy={"dtype": "bf16"})
    assert "loss nan" in made["said"]
    assert "The step is undone" in made["said"]
    assert made["same"]
    assert {array.dtype.name for array in made["weights"].values()} == {"uint16"}
    plain = Stage(0, 1, **given, policy={"dtype": "bf16"}).plain()
    close(made["signs"][:1], steps(plain, (0,)), 0.05)  # bf16: another order of sums


def test_one_process_goes_on_where_a_gang_left_off(play: Play, tmp_path: Path) -> None:
    given: dict[str, Any] = {"configs": [{"micro_tokens": 36}], "folder": str(tmp_path)}
    made = play("canaries", 2, **given, policy={"temperature": 0.7})
    plain = Stage(0, 1, **given, policy={"temperature": 0.7}).plain()
    plain.load(tmp_path / "state")
    for name, weight in weights(plain).items():
        np.testing.assert_array_equal(made["weights"][name], weight)
    np.testing.assert_allclose(made["canary"], plain.canary(NOW).logprobs, atol=1e-5)
    close(steps(plain, (1,)), made["signs"], 1e-3)
    coarse = Stage(0, 1, **given, policy={"dtype": "bf16"}).plain()
    coarse.load(tmp_path / "state")
    for (name, weight), (_, master) in zip(coarse.named, coarse.optimizer.masters, strict=True):
        assert master.dtype is torch.float32
        np.testing.assert_array_equal(master.detach().numpy(), made["weights"][name])
        assert torch.equal(weight, master.to(torch.bfloat16))


def test_one_process_measures_against_the_reference_that_a_gang_kept(tmp_path: Path) -> None:
    """A gang keeps it in fp32, whatever the policy's dtype is."""
    table = {"reference": "start", "loss": {"kl": "loss", "kl_beta": 0.1}}
    fine = Stage(0, 1, configs=[table]).plain()
    learner_reference.keep_start(tmp_path, dict(fine.published()))
    coarse = Stage(0, 1, configs=[table], policy={"dtype": "bf16"}).plain()
    coarse.steps = 1  # as after `load`
    coarse.refer(tmp_path)
    assert coarse.reference is not None
    for name, weight in coarse.reference.model.named_parameters():
        assert torch.equal(weight, dict(fine.named)[name].to(torch.bfloat16))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_each_rank_writes_its_slices_and_they_are_the_whole_version(
    play: Play, dtype: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"configs": [{}], "folder": str(tmp_path)}
    made = play("published", 2, **given, policy={"model": "new:qwen2", "dtype": dtype})
    assert (made["wrong"], made["same"]) == ("", True)
    assert list(made["found"]) == list(made["weights"])
    for name, weight in made["weights"].items():
        np.testing.assert_array_equal(made["found"][name], weight)
    assert max(made["share"]) < 0.6 * made["bytes"], "about a half each"
    assert "not on another" in made["said"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_ranks_write_adapters_alone_and_over_their_base_they_are_the_merged_weights(
    play: Play, dtype: str, tmp_path: Path
) -> None:
    """Bit for bit, though each rank wrote other rows, and the sums are done elsewhere."""
    pytest.importorskip("peft")
    lora = {"rank": 4, "alpha": 6}
    given: dict[str, Any] = {"configs": [{"lora": lora}], "folder": str(tmp_path)}
    made = play("published", 2, **given, policy={"model": "new:qwen2", "dtype": dtype})
    base = made["base"]
    for one in (made, base):
        assert (one["wrong"], one["same"]) == ("", True)
        assert max(one["share"]) < 0.6 * one["bytes"], "about a half each"
        for name, weight in one["gathered"].items():
            np.testing.assert_array_equal(one["found"][name], weight)
    assert made["bytes"] < base["bytes"]
    adapters, below = filled(made), filled(base)
    over = Over(below[0].version, below[0].digest, **lora, dtype=dtype)
    manifest = msgspec.structs.replace(adapters[0], over=over)
    out = bytearray(whole_layout(below[0], manifest).num_bytes)
    whole = lay_over(below[0], below[1], manifest, adapters[1], memoryview(out))
    assert whole.digest == made["digest"]
    found = tensors(whole, out)
    assert list(found) == list(made["weights"])
    for name, weight in made["weights"].items():
        np.testing.assert_array_equal(found[name], weight)


def filled(published: dict[str, Any]) -> tuple[Manifest, memoryview]:
    room = memoryview(bytearray(published["bytes"]))
    return fill(published["plan"], room, published["found"].values()), room


def test_a_rank_that_writes_its_slices_needs_room_for_one_of_them(
    play: Play, tmp_path: Path
) -> None:
    """And not for its shard: cast to bf16, that is half of a half of the model here."""
    shape = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
             "num_key_value_heads": 8, "intermediate_size": 1024}  # fmt: skip
    policy = {"shape": shape, "dtype": "bf16"}
    made = play("publication_memory", 2, folder=str(tmp_path), policy=policy)
    slack = 4 * 2**20
    assert made["sliced"] < 3 * made["largest"] + slack < made["version"] / 4
    assert made["whole"] > made["version"] / 2, "what it is where all comes together"


def test_shards_that_are_not_there_are_missed_by_name(tmp_path: Path) -> None:
    plain = Stage(0, 1).plain()
    learner_files.write_small(
        tmp_path, {"generator": plain.rng.get_state()}, {"steps": 1, "ranks": 2}
    )
    with pytest.raises(CheckpointError, match=r"lm_head\.weight|embed_tokens\.weight is missing"):
        plain.load(tmp_path)
