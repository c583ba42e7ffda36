"""`realnet export`: a checkpoint as a folder that transformers loads, with the same weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from realnet.cli import main
from realnet.roles.messages import Version
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy
from realnet.roles.trainer.checkpoint import Checkpoints
from realnet.roles.trainer.learner import Learner
from realnet.roles.trainer.meta import Meta
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.topology import read_source, resolve
from realnet.topology.plan import write_plan

TOPOLOGY = """
extends = "rl"
title = "small"
[run]
until = { steps = 4 }
[policy]
model = "new:llama"
tokenizer = "new:chars"
shape = { hidden_size = 16, num_attention_heads = 4, intermediate_size = 16 }
context = 80
max_tokens = 56
[tasks.addz]
data = "new:addz"
reward = { exact = 1.0 }
[tasks.held]
like = "addz"
use = "eval"
[roles.generator]
engine = { kind = "torch", slots = 8 }
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with one checkpoint, of step 3."""
    path = tmp_path / "small.toml"
    path.write_text(TOPOLOGY)
    plan = resolve(read_source(path, ()), "demo")
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    write_plan(plan, folder)
    save(folder, Version("policy", 0, 3))
    return folder


def save(folder: Path, version: Version, tokens: str = "") -> Learner:
    policy = Policy(
        model="new:llama",
        tokenizer="new:chars",
        shape={"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16},
        context=80,
        seed=5,  # not the plan's: the weights must come from the checkpoint
    )
    learner = Learner(policy, TrainerConfig(), load_tokenizer(policy, folder), folder)
    meta = Meta("policy", version.branch, version.number, 1, tokens=tokens or learner.tokens)
    small = {"meta.json": msgspec.json.encode(meta)}
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    checkpoints.save(version.number, small, lambda part: learner.save(part / "learner"))
    return learner


def export(run: Path, *arguments: str) -> Result:
    command = ["export", *arguments, "--runs", str(run.parent)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def test_transformers_loads_the_weights_and_the_tokenizer_of_the_checkpoint(
    run: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = export(run, "demo", "--to", str(tmp_path / "hf"))
    assert done.exit_code == 0, done.output
    assert "demo@3 (policy v0.3)" in done.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    saved = load_file(run / "checkpoints/step_000003/learner/model.safetensors")
    own = dict(model.named_parameters())
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in saved)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    policy = Policy(model="new:llama", tokenizer="new:chars")
    assert tokenizer("12+3=").input_ids == load_tokenizer(policy, run).encode("12+3=")


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("kept")
    full = export(run, "demo@3", "--to", str(tmp_path / "hf"))
    assert full.exit_code == 2
    assert "holds something already" in full.output
    assert (tmp_path / "hf" / "mine.txt").read_text() == "kept"
    nowhere = export(run, "demo@7", "--to", str(tmp_path / "x"))
    assert nowhere.exit_code == 1
    assert "no checkpoint of step 7. Steps there: 3" in nowhere.output
    save(run, Version("policy", 0, 9), tokens="other")
    other = export(run, "demo@9", "--to", str(tmp_path / "x"))
    assert other.exit_code == 2
    assert "another vocabulary" in other.output
    (run / "checkpoints/step_000003/learner/model.safetensors").write_bytes(b"torn")
    torn = export(run, "demo@3", "--to", str(tmp_path / "x"))
    assert torn.exit_code == 1
    assert "is damaged" in torn.output
    assert not (tmp_path / "x").exists()
