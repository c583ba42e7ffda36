"""Adapters: they alone are trained and kept, and everybody else gets the merged model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from learner_scenarios import NOW, Stage, age, batch, steps, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from realnet.errors import CheckpointError, ConfigError
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.torch_engine import TorchEngine
from realnet.roles.messages import Version
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.shape import shape_of
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import LearnerConfig
from realnet.roles.trainer.learner_lora import is_adapter
from realnet.roles.trainer.learner_saved import Saved

peft = pytest.importorskip("peft")
Play = Callable[..., Any]
LORA = {"lora": {"rank": 4, "alpha": 8}}
FEW = {"lora": {"rank": 2, "targets": ["q_proj", "down_proj"]}}
ROWS = [(np.array([5, 6, 7, 8, 9]), np.array([1, 2, 3, 4]))]


def plain(config: dict[str, Any] = LORA, **policy: Any) -> Learner:
    return Stage(0, 1, configs=[config], policy=policy).plain()


def base_of(of: Learner) -> dict[str, torch.Tensor]:
    made = build_model(of.policy, of.tokenizer, Path(), of.policy.seed)
    return dict(named_weights(made))


def test_only_adapters_are_trained_and_the_base_stays_what_it_was() -> None:
    made = plain(FEW)
    names = [name for name, _ in made.named]
    assert len(names) == 2 * 2 * 2  # layers, targets, matrices of an adapter
    assert all(map(is_adapter, names))
    before = base_of(made)
    start = weights(made)
    for name, weight in before.items():
        np.testing.assert_array_equal(start[name], weight.numpy())  # they add nothing yet
    steps(made, (0, 1))
    assert not any(w.grad is not None for w in made.model.parameters())
    moved = {n for n, w in weights(made).items() if not np.array_equal(w, before[n].numpy())}
    ends = ("q_proj.weight", "down_proj.weight")
    assert moved == {name for name in before if name.endswith(ends)}
    for name, weight in made.model.named_parameters():
        if not is_adapter(name):
            torch.testing.assert_close(
                weight.detach(), before[name.replace(".base_layer", "")], rtol=0, atol=0
            )


def test_the_gradient_is_that_of_the_merged_weights_by_the_chain_rule() -> None:
    """B is zero at the start: dL/dB = alpha / rank * dL/dW A^T, of the model without adapters."""
    config = {"minibatches": 1, "grad_clip": 0.0}
    caught: list[dict[str, torch.Tensor]] = []
    for table in ({**config, **FEW}, config):
        made = Stage(0, 1, configs=[table], fine=False).plain()
        made.model.double()

        def catch(made: Learner = made) -> None:
            found = {n: w.grad.clone() for n, w in made.named if w.grad is not None}
            caught.append({**found, **{f"= {n}": w.detach().clone() for n, w in made.named}})

        made.optimizer.update = catch  # type: ignore[method-assign]
        made.step(batch(), NOW, age)
    mine, whole = caught
    for stem in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        down = mine[f"= {stem}.lora_A.default.weight"]
        expected = whole[f"{stem}.weight"] @ down.T * (16 / 2)
        torch.testing.assert_close(mine[f"{stem}.lora_B.default.weight"], expected)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_engine_with_the_merged_weights_scores_as_the_trainer(dtype: str) -> None:
    made = plain(dtype=dtype)
    config = EngineConfig(slots=4, kv="recompute")
    shape = shape_of(made.policy, made.tokenizer.vocab_size, Path())
    updated = TorchEngine(shape, made.policy, config, seed=0)
    for number, seed in enumerate((0, 1)):
        updated.stage(weights(made), Version("p", 0, number))
        updated.swap()
        steps(made, (seed,))
    now = weights(made)
    fresh = TorchEngine(shape, made.policy, config, seed=0)
    for core in (updated, fresh):
        core.stage(now, Version("p", 0, 9))
        core.swap()
    ids = [ROWS[0][0].astype(np.int32)]
    one, other = updated.score(ids)[0], fresh.score(ids)[0]
    np.testing.assert_array_equal(one, other)
    mine = made.score(ROWS, temperature=1.0)[0]
    assert np.abs(one - mine).max() < (1e-5 if dtype == "fp32" else 0.1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_resumed_learner_takes_the_same_steps(dtype: str, tmp_path: Path) -> None:
    made = plain(dtype=dtype, model="new:qwen2")  # with biases
    steps(made, (0,))
    made.save(tmp_path)
    again = plain(dtype=dtype, model="new:qwen2", seed=77)  # another base, were it not kept
    again.load(tmp_path)
    assert steps(again, (1,)) == steps(made, (1,))
    for name, weight in weights(made).items():
        np.testing.assert_array_equal(weights(again)[name], weight)


def folder_model(tmp_path: Path, model: str = "new:qwen2") -> str:
    Stage(0, 1, policy={"model": model}).plain().export(tmp_path / "model")
    return str(tmp_path / "model")


def on_folder(folder: str, config: dict[str, Any] = LORA, **more: Any) -> Learner:
    policy = {"model": folder, "tokenizer": "", "shape": {}, **more}
    return plain(config, **policy)


def test_a_checkpoint_on_a_models_folder_holds_adapters_and_nothing_else(tmp_path: Path) -> None:
    made = on_folder(folder_model(tmp_path))
    steps(made, (0,))
    made.save(tmp_path / "state")
    found = load_file(tmp_path / "state" / "model.safetensors")
    assert found.keys() == {name for name, _ in made.named}
    again = on_folder(str(tmp_path / "model"))
    again.load(tmp_path / "state")
    assert steps(again, (1,)) == steps(made, (1,))
    other = on_folder(str(tmp_path / "model"), FEW)
    with pytest.raises(CheckpointError, match="the checkpoint is of another model"):
        other.load(tmp_path / "state")


def test_a_fork_takes_adapters_along_or_merges_them(tmp_path: Path) -> None:
    made = on_folder(folder_model(tmp_path))
    steps(made, (0,))
    made.save(tmp_path / "state")
    forked = on_folder(str(tmp_path / "model"))
    assert forked.adopt(tmp_path / "state") == "with its optimizer's moments"
    full = on_folder(str(tmp_path / "model"), {})
    assert "something else is trained" in full.adopt(tmp_path / "state")
    full.save(tmp_path / "full")
    anew = on_folder(str(tmp_path / "model"))
    assert "something else is trained" in anew.adopt(tmp_path / "full")
    for other in (forked, full, anew):
        for name, weight in weights(made).items():
            np.testing.assert_array_equal(weights(other)[name], weight)
    assert anew.has_own_base, "its base is no folder's: its checkpoints must hold it"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("other", [{"lora": {"rank": 4, "alpha": 32}}, FEW])
def test_a_fork_with_adapters_of_another_kind_begins_as_what_it_was_forked_from(
    other: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    made = on_folder(folder_model(tmp_path), dtype=dtype)
    steps(made, (0,))
    made.save(tmp_path / "state")
    forked = on_folder(str(tmp_path / "model"), other, dtype=dtype)
    assert "another rank, alpha or place" in forked.adopt(tmp_path / "state")
    assert not forked.optimizer.inner.state
    for name, weight in weights(made).items():
        np.testing.assert_array_equal(weights(forked)[name], weight)
    steps(forked, (1,))
    forked.save(tmp_path / "forked")
    again = on_folder(str(tmp_path / "model"), other, dtype=dtype)
    again.load(tmp_path / "forked")
    for name, weight in weights(forked).items():
        np.testing.assert_array_equal(weights(again)[name], weight)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's
def test_an_export_is_the_merged_model_and_an_adapter_that_peft_loads(tmp_path: Path) -> None:
    made = on_folder(folder_model(tmp_path))
    steps(made, (0, 1))
    made.export(tmp_path / "out")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for name, weight in weights(made).items():
        np.testing.assert_array_equal(dict(merged.named_parameters())[name].detach(), weight)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        bare = base.eval()(ids).logits
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
        torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)
    assert (bare - merged(ids).logits).abs().max() > 1e-3


def test_a_warm_start_trains_the_base_and_a_reference_is_the_merged_start(tmp_path: Path) -> None:
    table = {
        **LORA,
        "warm_start": {"steps": 3, "batch": 2},
        "reference": "start",
        "loss": {"kl": "loss", "kl_beta": 0.1},
    }
    made = plain(table)
    before = weights(made)
    made.warm_start(lambda k, progress: ("12", "34"), lambda step, of, signs: None)
    start = weights(made)
    assert not np.array_equal(before["model.norm.weight"], start["model.norm.weight"])
    assert not any("lora_B" in n and w.abs().max() > 0 for n, w in made.named)
    made.refer(tmp_path)
    steps(made, (0,))
    made.save(tmp_path / "state")
    again = plain(table)
    again.load(tmp_path / "state")
    again.refer(tmp_path)
    kept = load_file(tmp_path / "reference.safetensors")
    assert all(np.array_equal(kept[name].numpy(), weight) for name, weight in start.items())
    one, other = steps(made, (1,))[0], steps(again, (1,))[0]
    assert one == other
    assert one["kl_ref"] > 0


def test_targets_that_are_not_there_and_a_peft_that_is_not_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"have no matrix c_attn; they have down_proj, gate_proj"):
        plain({"lora": {"rank": 2, "targets": ["c_attn"]}})
    with pytest.raises(msgspec.ValidationError, match=r"without lora\.rank"):
        msgspec.convert({"lora": {"targets": ["q_proj"]}}, LearnerConfig)


def close(found: Sequence[dict[str, float]], expected: Sequence[dict[str, float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            assert one[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_the_adapters_that_one_process_does(play: Play, tmp_path: Path) -> None:
    configs = [{**LORA, "micro_tokens": 36, "activations": "recompute", "reference": "start",
                "loss": {"kl": "loss", "kl_beta": 0.1}}]  # fmt: skip
    given: dict[str, Any] = {
        "configs": configs, "fine": True, "folder": str(tmp_path), "policy": {"model": "new:qwen2"}
    }  # fmt: skip
    made = play("five", 2, **given)
    alone = Stage(0, 1, **{**given, "folder": str(tmp_path / "plain")}).plain()
    alone.refer(tmp_path / "plain")
    close(made["signs"], steps(alone, range(5)))
    for name, weight in weights(alone).items():
        np.testing.assert_allclose(made["weights"][name], weight, atol=1e-6)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export").state_dict()
    for name, weight in made["weights"].items():
        np.testing.assert_array_equal(exported[name].numpy(), weight)
    assert (tmp_path / "export" / "adapter" / "adapter_config.json").is_file()
    same = play("go_on", 2, **given)
    assert same["signs"] == made["signs"][2:3]
    back = Stage(0, 1, **given).plain()
    back.load(tmp_path / "state")
    back.refer(tmp_path)
    close(steps(back, (2,)), made["signs"][2:3])


def test_whoever_reads_a_checkpoint_gets_the_merged_weights(tmp_path: Path) -> None:
    made = on_folder(folder_model(tmp_path))
    steps(made, (0,))
    made.save(tmp_path / "state")
    found = Saved(tmp_path / "state").whole(made.policy, made.tokenizer, Path())
    new = plain()
    steps(new, (0,))
    new.save(tmp_path / "new")
    other = Saved(tmp_path / "new").whole(new.policy, new.tokenizer, Path())
    for got, learner in ((found, made), (other, new)):
        expected = weights(learner)
        assert list(got) == list(expected)
        for name, weight in got.items():
            np.testing.assert_array_equal(weight.numpy(), expected[name])


def test_what_a_gang_saved_is_read_as_it_was_published(play: Play, tmp_path: Path) -> None:
    """Rounded once: adapters in bf16 would be others than those that were merged."""
    policy = {"model": "new:qwen2", "dtype": "bf16"}
    made = play("train", 2, configs=[LORA], folder=str(tmp_path), policy=policy)
    stage = Stage(0, 1, configs=[LORA], policy=policy)
    found = Saved(tmp_path / "state").whole(stage.policy, stage.tokenizer, Path())
    assert list(found) == list(made["weights"])
    for name, weight in made["weights"].items():
        np.testing.assert_array_equal(found[name].view(torch.uint16).numpy(), weight)
