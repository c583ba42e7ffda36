"""A policy's table is refused before anything is built: each mistake once, by table and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from realnet.config import read_table
from realnet.errors import ConfigError
from realnet.roles.driver.driver import Driver
from realnet.roles.evaluator import Evaluator
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.generator import Generator, GeneratorConfig
from realnet.roles.models.check import check_policy
from realnet.roles.parameter_server import ParameterServer
from realnet.roles.prompter import Prompter
from realnet.roles.rewarder.rewarder import Rewarder, RewarderConfig
from realnet.roles.tables import Policy, Schedule, Task
from realnet.roles.trainer.trainer import Trainer, TrainerConfig
from realnet.topology.roletable import RESERVED

EMPTY = b"\x02\0\0\0\0\0\0\0{}"  # a safetensors file of no tensors
NEW: dict[str, Any] = {"model": "new:llama", "tokenizer": "new:chars", "context": 80}
QWEN = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 100,
}


def weights(cut: int = 0) -> bytes:
    """Return a safetensors file of one tensor, without its last bytes."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    return data[: len(data) - cut]


def complaint(base: Path, **table: Any) -> str:
    policy = read_table(Policy, {**NEW, "max_tokens": 56, **table}, "t.toml: [policy]")
    with pytest.raises(ConfigError) as caught:
        check_policy(policy, base)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"context": 56}, "[policy].max_tokens = 56 leaves no room for a prompt in "),
        (
            {"model": "new:lama"},
            '[policy].model = "new:lama": no such new model. Did you mean',
        ),
        ({"model": "./nowhere", "tokenizer": "new:bytes"}, '[policy].model = "./nowhere": '),
        ({"model": "hf:Qwen/Qwen3-0.6B"}, "it was not fetched"),
        ({"tokenizer": "new:char"}, 'no such kind. Did you mean "new:chars"?'),
        ({"tokenizer": "./nowhere"}, "there is no tokenizer.json"),
        ({"tokenizer": ""}, "[policy].tokenizer is missing"),
        (
            {"shape": {"hiden_size": 64}},
            "[policy].shape.hiden_size: no such key. Did you mean",
        ),
        ({"shape": {"hidden_size": -64}}, "[policy].shape.hidden_size = -64: must be a whole"),
        ({"shape": {"hidden_size": 64.5}}, "[policy].shape.hidden_size = 64.5: must be a whole"),
        ({"shape": {"num_hidden_layers": 0}}, "[policy].shape.num_hidden_layers = 0: must be a"),
        ({"shape": {"rms_norm_eps": 0}}, "[policy].shape.rms_norm_eps = 0: must be a number above"),
        ({"shape": {"tie_word_embeddings": 1}}, "tie_word_embeddings = 1: must be true or false"),
        ({"shape": {"num_attention_heads": 3}}, "num_attention_heads = 3 is not a multiple"),
    ],
)
def test_each_mistake_is_told_by_its_key(tmp_path: Path, table: dict[str, Any], text: str) -> None:
    said = complaint(tmp_path, **table)
    assert text in said
    assert "\n" not in said


def test_what_is_in_order_passes(tmp_path: Path) -> None:
    policy = Policy(**NEW, max_tokens=56, shape={"head_dim": 0, "num_key_value_heads": 2})
    check_policy(policy, tmp_path)


@pytest.mark.parametrize(
    ("config", "weights", "text"),
    [
        (json.dumps(QWEN), False, "has no *.safetensors"),
        ("{", True, "config.json does not read"),
        ("[]", True, "config.json does not read"),
        (json.dumps({**QWEN, "hidden_size": "x"}), True, "config.json does not read"),
        (json.dumps({"model_type": "qwen2"}), True, "does not say 'num_attention_heads'"),
        (json.dumps({"model_type": "gpt2"}), True, 'architecture "gpt2"'),
        (json.dumps({**QWEN, "vocab_size": 20}), True, "embeds 20 tokens, but the tokenizer has"),
        (json.dumps({**QWEN, "max_position_embeddings": 64}), True, "the model knows 64 positions"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, config: str, weights: bool, text: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(config)
    if weights:
        (tmp_path / "m" / "model.safetensors").write_bytes(EMPTY)
    assert text in complaint(tmp_path, model="./m")


@pytest.mark.parametrize(
    ("file", "data", "text"),
    [
        ("model.safetensors", b"", "model.safetensors is no safetensors file"),
        ("model.safetensors", b"<html>not found</html>", "cut off in its header: it has 22 bytes"),
        (
            "model.safetensors",
            weights(cut=1),
            f"was cut off: {len(weights()) - 1} of {len(weights())} bytes",
        ),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "of git-lfs"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0[]", "its header does not read"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}',
            "names files that are not there: model-00002-of-00002.safetensors",
        ),
        ("model.safetensors.index.json", b"{}", "index.json does not read: KeyError"),
    ],
)
def test_weights_that_are_not_whole_are_refused_by_file(
    tmp_path: Path, file: str, data: bytes, text: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    (folder / "model.safetensors").write_bytes(weights())
    assert "safetensors" not in complaint(tmp_path, model="./m", max_tokens=90)
    (folder / file).write_bytes(data)
    assert text in complaint(tmp_path, model="./m")


def test_trainer_and_generator_check_their_policy(tmp_path: Path) -> None:
    policy = Policy(**{**NEW, "model": "new:lama"}, max_tokens=8)
    shared: dict[Any, Any] = {Policy: policy, Task: {}}
    with pytest.raises(ConfigError, match="no such new model"):
        Trainer.check(TrainerConfig(), shared, tmp_path)
    with pytest.raises(ConfigError, match="no such new model"):
        Generator.check(GeneratorConfig(), shared, tmp_path)
    Generator.check(GeneratorConfig(engine=EngineConfig(kind="fake")), shared, tmp_path)
    shared[Policy] = Policy(**NEW, max_tokens=8)
    with pytest.raises(ConfigError, match=r'device = "cudaa": write "cpu"'):
        Generator.check(GeneratorConfig(engine=EngineConfig(device="cudaa")), shared, tmp_path)


@pytest.mark.parametrize(
    ("record", "table", "text"),
    [
        (Schedule, {"save": {"every": "0 steps"}}, r"\[run\]\.save: every = 0"),
        (Schedule, {"eval": 0}, r"\[run\]: eval = 0"),
        (Schedule, {"until": {"time": -5}}, r"\[run\]\.until\.time = -5"),
        (RewarderConfig, {"limit": 0}, "limit = 0"),
    ],
)
def test_numbers_that_no_run_can_work_with(record: Any, table: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_table(record, table, "t.toml: [run]")


def test_no_role_has_a_key_that_a_topology_keeps_for_itself() -> None:
    roles = (Prompter, Driver, Generator, Rewarder, Trainer, ParameterServer, Evaluator)
    for role in roles:
        fields = {f.encode_name for f in msgspec.structs.fields(role.Config)}
        assert not fields & set(RESERVED), role
