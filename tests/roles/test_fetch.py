"""`realnet fetch`: from a hub (a made-up one on loopback) to a run's roles without network."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub

from realnet.errors import ConfigError, LostReference
from realnet.roles.hub import LOCK, Pin, read_lock, write_lock
from realnet.roles.hub.files import model_files, split_files
from realnet.roles.models.build import build_model, export_hf
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy

TOPOLOGY = """
extends = "rl"
title   = "t"
[policy]
model      = "hf:acme/tiny"
context    = 96
max_tokens = 8
group      = 2
[tasks.sums]
data   = "hf:acme/sums/main:train"
reward = { exact = 1.0 }
[tasks.sums_test]
like = "sums"
data = "hf:acme/sums/main:test"
use  = "eval"
limit = 2
"""
README = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
# sums
"""


def rows(*names: str) -> bytes:
    return b"".join(json.dumps({"question": n, "answer": "x"}).encode() + b"\n" for n in names)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    made = FakeHub()
    policy, tokenizer = Policy(model="new:qwen2", context=96), Tokenizer.new_bytes()
    export_hf(build_model(policy, tokenizer, tmp_path, 0), tokenizer, tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    made.repos[("model", "acme/tiny")] = {**files, "pytorch_model.bin": b"a pickle"}
    made.repos[("dataset", "acme/sums")] = {
        "README.md": README,
        "main/train-00000.jsonl": rows("a", "b"),
        "main/train-00001.jsonl": rows("c"),
        "main/test-00000.jsonl": rows("held", "out"),
    }
    yield made
    made.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "topology"
    folder.mkdir()
    (folder / "t.toml").write_text(TOPOLOGY)
    return folder


def realnet(
    verb: str, base: Path, hub: FakeHub, *words: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(base.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-P", "-m", "realnet.cli", verb, str(base / "t.toml"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.timeout(240)
def test_what_was_fetched_serves_without_network(base: Path, hub: FakeHub) -> None:
    before = realnet("check", base, hub)
    assert before.returncode == 2
    assert 'model = "hf:acme/tiny": it was not fetched' in before.stderr
    assert "hf:acme/sums/main:train" in before.stderr
    assert "realnet fetch" in before.stderr
    lost = realnet("fetch", base, hub, offline=True)
    assert lost.returncode == 2
    assert "not pinned" in lost.stderr
    assert not hub.asked, "check and HF_HUB_OFFLINE=1 ask nobody"

    done = realnet("fetch", base, hub)
    assert done.returncode == 0, done.stderr
    pins = read_lock(base)
    assert pins["model hf:acme/tiny"].commit == hub.commit("model", "acme/tiny")
    assert "pytorch_model.bin" not in pins["model hf:acme/tiny"].files
    assert pins["dataset hf:acme/sums/main:train"].files == (
        "main/train-00000.jsonl",
        "main/train-00001.jsonl",
    )
    assert not any(path.endswith(".bin") for path in hub.asked)

    pinned, asked = (base / LOCK).read_text(), len(hub.asked)
    hub.repos[("dataset", "acme/sums")]["main/train-00001.jsonl"] = rows("another")
    offline = realnet("fetch", base, hub, offline=True)
    assert offline.returncode == 0, offline.stderr
    tried = realnet("try", base, hub, "--answers", "1", offline=True)
    assert tried.returncode == 0, tried.stderr
    assert "(3 prompts, 1 answers each)" in tried.stdout
    assert "another" not in tried.stdout
    assert (base / LOCK).read_text() == pinned
    assert len(hub.asked) == asked, "not one request without network"

    moved = realnet("fetch", base, hub, "--update")
    assert moved.returncode == 0, moved.stderr
    commit = read_lock(base)["dataset hf:acme/sums/main:train"].commit
    assert commit == hub.commit("dataset", "acme/sums")
    assert (base / LOCK).read_text() != pinned


@pytest.mark.timeout(120)
def test_what_is_not_there_is_told_and_the_rest_is_brought(base: Path, hub: FakeHub) -> None:
    text = TOPOLOGY.replace("hf:acme/tiny", "hf:acme/tinny").replace("main:test", "main:tets")
    (base / "t.toml").write_text(text)
    result = realnet("fetch", base, hub)
    assert result.returncode != 0
    assert '[policy].model = "hf:acme/tinny": it could not be brought' in result.stderr
    assert "no split 'tets'. Did you mean \"test\"? Splits: test, train" in result.stderr
    assert list(read_lock(base)) == ["dataset hf:acme/sums/main:train"]


@pytest.mark.timeout(120)
def test_a_hub_that_is_not_there_is_told(base: Path, hub: FakeHub) -> None:
    hub.close()
    result = realnet("fetch", base, hub)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert '[policy].model = "hf:acme/tiny": it could not be brought' in result.stderr
    assert "is there a network" in result.stderr


def test_a_lock_file_reads_again_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    pins = {"model hf:a/b": Pin("a/b", "model", "0" * 40, ("config.json",))}
    write_lock(tmp_path, pins)
    assert read_lock(tmp_path) == pins
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(ConfigError, match="does not read"):
        read_lock(tmp_path)


# ---------------------------------------------------------------- which files


def test_a_model_is_its_safetensors_config_and_tokenizer() -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "x.bin", "onnx/model.onnx"]
    assert model_files(names, "m") == ("config.json", "model.safetensors", "tokenizer.json")
    with pytest.raises(LostReference, match=r"no \*\.safetensors"):
        model_files(["config.json", "pytorch_model.bin"], "m")
    with pytest.raises(LostReference, match=r"no config\.json"):
        model_files(["train.parquet"], "m")


@pytest.mark.parametrize(
    ("names", "subset", "expected"),
    [
        (["main/train-0.parquet", "socratic/train-0.parquet"], "main", "main/train-0.parquet"),
        (["data/train-0.parquet", "data/test-0.parquet"], "", "data/train-0.parquet"),
        (["train.jsonl", "test.jsonl"], "", "train.jsonl"),
        (["main/train/0.parquet"], "main", "main/train/0.parquet"),
    ],
)
def test_a_split_is_known_by_its_usual_names(names: list[str], subset: str, expected: str) -> None:
    assert split_files(names, "", subset, "train", "d") == (expected,)


def test_a_split_that_is_not_there_says_what_is() -> None:
    with pytest.raises(LostReference, match=r"split 'train'\. It has: x/a\.parquet"):
        split_files(["x/a.parquet"], "", "", "train", "d")
    readme = README.decode()
    with pytest.raises(LostReference, match=r"no subset 'mian'. Did you mean \"main\""):
        split_files(["main/train-0.jsonl"], readme, "mian", "train", "d")
    assert split_files(["main/train-0.jsonl"], readme, "", "train", "d") == ("main/train-0.jsonl",)


def test_parquet_rows_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    from realnet.roles.tasks import hubrows

    table = pyarrow.table({"question": ["1+1", "2+2"], "answer": [2, 4]})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    path = tmp_path / "train-0.parquet"
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr(hubrows, "locate_dataset", lambda *_: [path])
    found = hubrows.HubRows("hf:a/b", tmp_path, "[tasks.t]")
    assert found.count == 2
    assert found.row(1, held_out=False) == {"question": "2+2", "answer": "4"}
    assert found.name(1) == "train-0.parquet row 1"
    with pytest.raises(ConfigError, match=r'needs the column .*Did you mean "question"'):
        found.require(["questoin"], "[tasks.t]", "the prompt")
    path.write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match="does not read"):
        hubrows.HubRows("hf:a/b", tmp_path, "[tasks.t]")
