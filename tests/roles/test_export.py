"""`realnet export`: a checkpoint as a folder that transformers loads, with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from saved_run import save, saved_run

from realnet.cli import main
from realnet.roles.messages import Version
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.tables import Policy


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_run(tmp_path)


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
