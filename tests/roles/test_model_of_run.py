"""`model = "run:NAME@step"`: a policy that begins as what another run trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_run import save, saved_run
from small_rl import topology

from realnet.errors import ConfigError
from realnet.references import RunReference, parse_reference
from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.messages import Version
from realnet.roles.models.build import build_empty, build_model, named_weights
from realnet.roles.models.check import check_policy
from realnet.roles.models.memory import known_shape
from realnet.roles.models.reference import described, load_tokenizer
from realnet.roles.models.shape import shape_of
from realnet.roles.tables import Policy
from realnet.roles.trainer.beginning import built_as
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.learner_config import check_reference
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.topology import Plan, read_source, resolve
from realnet.topology.changes import compare
from realnet.topology.plan import write_plan


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_run(tmp_path)


def begun_as(step: str, run: Path) -> Policy:
    return Policy(model=f"run:{run}{step}", context=80, max_tokens=56)


def second(tmp_path: Path, model: str, **more: Any) -> Plan:
    """Return the plan of a topology whose policy is another run's."""
    path = tmp_path / "second.toml"
    policy = {"model": model, "shape": None, "tokenizer": None} | more
    path.write_text(topology({"policy": policy}))
    return resolve(read_source(path, (), tmp_path / "runs"), "second")


def test_its_weights_shape_and_tokenizer_are_the_other_runs(run: Path, tmp_path: Path) -> None:
    policy = begun_as("@3", run)
    tokenizer = load_tokenizer(policy, tmp_path)
    assert tokenizer.encode("12+3=") == load_tokenizer(begun_as("", run), tmp_path).encode("12+3=")
    saved = load_file(run / "checkpoints/step_000003/learner/model.safetensors")
    for step in ("@3", "@last", ""):
        own = dict(named_weights(build_model(begun_as(step, run), tokenizer, tmp_path, seed=9)))
        assert own.keys() == saved.keys()
        assert all(torch.equal(own[name], saved[name]) for name in saved)
    shape = shape_of(policy, tokenizer.vocab_size, tmp_path)
    assert (shape.hidden_size, shape.intermediate_size) == (16, 16)
    assert known_shape(policy, tmp_path) == shape
    empty = dict(named_weights(build_empty(policy, tokenizer, tmp_path)))
    assert {n: w.shape for n, w in empty.items()} == {n: w.shape for n, w in saved.items()}


def test_best_is_what_the_other_runs_metrics_say(run: Path, tmp_path: Path) -> None:
    save(run, Version("policy", 0, 6))
    rows = [{"step": 3, "eval/held/pass@1": 0.7}, {"step": 6, "eval/held/pass@1": 0.4}]
    text = "".join(json.dumps({"type": "metrics", "who": "evaluator/0", **r}) + "\n" for r in rows)
    (run / "metrics.jsonl").write_text(text)
    assert "demo@3" in built_as(begun_as("@best", run), tmp_path, tmp_path / "none")[1]
    assert "demo@6" in built_as(begun_as("@last", run), tmp_path, tmp_path / "none")[1]


def test_a_topology_names_the_run_and_the_plan_its_folder(run: Path, tmp_path: Path) -> None:
    plan = second(tmp_path, "run:demo@3")
    assert plan.shared["policy"]["policy"]["model"] == f"run:{run}@3"
    # The project moves as a whole: what a resume compares is the same.
    moved = second(tmp_path, "run:demo@3")
    old = Path("/elsewhere")
    moved.shared["policy"]["policy"]["model"] = f"run:{old / run.relative_to(tmp_path)}@3"
    changes = compare(
        Plan(**{f: getattr(moved, f) for f in moved.__struct_fields__} | {"base": str(old)}), plan
    )
    assert not changes.refused


@pytest.mark.parametrize(
    ("model", "more", "told"),
    [
        ("run:dmeo@3", {}, r'there is no run "dmeo" under .*runs\. Did you mean "demo"\?'),
        ("run:demo@7", {}, r"no checkpoint of step 7\. Steps there: 3"),
        ("run:demo@best", {}, r"\(steps 3\) was measured"),
        ("run:demo@3rd", {}, r"the step is a whole number, best or last"),
        ("run:demo@3", {"shape": {"hidden_size": 32}}, r"has its own shape\. Remove"),
        ("run:demo@3", {"tokenizer": "new:bytes"}, "another vocabulary"),
    ],
)
def test_what_leads_nowhere_is_told_by_key_and_run(
    run: Path, tmp_path: Path, model: str, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        second(tmp_path, model, **more)
    assert "[policy]." in str(caught.value) or "second.toml" in str(caught.value)


def test_a_run_that_kept_shards_only_is_refused(run: Path, tmp_path: Path) -> None:
    learner = run / "checkpoints/step_000003/learner"
    manifest = run / "checkpoints/step_000003/MANIFEST.json"
    table = json.loads(manifest.read_text())
    del table["files"]["learner/model.safetensors"]
    manifest.write_text(json.dumps(table))
    (learner / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r'backend = "fsdp".*name a folder with its export'):
        check_policy(begun_as("@3", run), tmp_path)


def test_a_run_that_trained_adapters_is_refused_before_it_is_begun(
    run: Path, tmp_path: Path
) -> None:
    old = run / "checkpoints/step_000003"
    weights = load_file(old / "learner/model.safetensors")
    weights["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(2, 16)

    def write(part: Path) -> None:
        (part / "learner").mkdir()
        save_file(weights, part / "learner/model.safetensors")

    small = {"meta.json": (old / "meta.json").read_bytes()}
    Checkpoints(run / "checkpoints", keep=9).save(6, small, write)
    check_policy(begun_as("@3", run), tmp_path)
    with pytest.raises(ConfigError, match=r"trained with lora.*--from demo@6.*export"):
        check_policy(begun_as("@6", run), tmp_path)


def test_it_goes_on_when_the_other_run_keeps_that_checkpoint_no_more(
    run: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    policy, told = built_as(begun_as("@3", run), tmp_path, own / "checkpoints")
    assert policy.model == f"run:{run}@3"
    assert told == "demo@3 (policy v0.3)"
    save(own, Version("policy", 0, 1))
    path = tmp_path / "second.toml"
    second(tmp_path, "run:demo@3")
    shutil.rmtree(run / "checkpoints")
    source = read_source(path, (), tmp_path / "runs")
    with pytest.raises(ConfigError, match="no checkpoint"):
        resolve(source, "second")
    assert resolve(source, "second", again=True).shared["policy"]["policy"]["model"].endswith("@3")
    policy, told = built_as(begun_as("@3", run), tmp_path, own / "checkpoints")
    assert not told
    learner = Learner(policy, TrainerConfig(), load_tokenizer(policy, tmp_path), tmp_path)
    learner.load(own / "checkpoints/step_000001/learner")
    saved = load_file(own / "checkpoints/step_000001/learner/model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in learner.named)


def test_what_it_began_as_is_followed_to_the_end(run: Path, tmp_path: Path) -> None:
    plan = second(tmp_path, "run:demo@3")
    folder = tmp_path / "runs" / "second"
    folder.mkdir()
    write_plan(plan, folder)
    found = described(begun_as("", folder), tmp_path)
    assert (found.model, found.tokenizer) == ("new:llama", "new:chars")
    assert found.shape["hidden_size"] == 16


def test_a_reference_may_be_another_run(run: Path, tmp_path: Path) -> None:
    policy = described(begun_as("", run), tmp_path)
    config = TrainerConfig(reference=f"run:{run}@3", loss=TrainerConfig().loss)
    check_reference(config, policy, tmp_path)
    learner = Learner(policy, config, load_tokenizer(policy, tmp_path), tmp_path)
    learner.refer(tmp_path)
    assert learner.reference is not None
    saved = load_file(run / "checkpoints/step_000003/learner/model.safetensors")
    frozen = dict(learner.reference.model.named_parameters())
    assert all(torch.equal(frozen[name], saved[name]) for name in saved)


def test_how_a_run_is_referred_to() -> None:
    assert parse_reference("run:demo@40") == RunReference("demo", "40")
    assert parse_reference("run:demo@best") == RunReference("demo", "best")
    assert parse_reference("run:/a/runs/demo") == RunReference("/a/runs/demo", "last")
    for wrong in ("run:", "run:demo@", "run:demo@fast", "run:a b/"):
        with pytest.raises(ValueError, match="run:NAME"):
            parse_reference(wrong)
