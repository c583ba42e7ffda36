"""What README shows is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from realnet.cli import main
from realnet.topology import read_source, resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_explained_topology_is_the_demo(tmp_path: Path) -> None:
    shown = next(b for b in blocks("toml") if 'title   = "demo"' in b)
    (tmp_path / "demo.toml").write_text(shown)
    plan = resolve(read_source(tmp_path / "demo.toml"))
    real = resolve(read_source(ROOT / "topologies" / "demo.toml"))
    assert plan.roles["trainer"] == real.roles["trainer"]
    assert plan.shared["run"] == real.shared["run"]
    for key, value in plan.shared["policy"]["policy"].items():
        if key != "shape":
            assert real.shared["policy"]["policy"][key] == value, key


def test_the_role_in_a_few_lines_is_wired(tmp_path: Path) -> None:
    role = next(b for b in blocks("python") if "LengthPenalty" in b)
    wiring = next(b for b in blocks("toml") if "roles.penalty" in b)
    (tmp_path / "penalty.py").write_text(role)
    (tmp_path / "t.toml").write_text(wiring)
    plan = resolve(read_source(tmp_path / "t.toml"))
    hops = {(w.from_role, w.to_role) for w in plan.wires if w.kind == "share"}
    assert {("rewarder", "penalty"), ("penalty", "trainer")} <= hops
    assert ("rewarder", "trainer") not in hops


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("policy.bacth=3", '[policy].bacth: no such key. Did you mean "batch"?'),
        ("roles.trainer.lr=fast", "[roles.trainer].lr = 'fast': Expected a number, got a text"),
    ],
)
def test_the_shown_errors(override: str, expected: str) -> None:
    demo = str(ROOT / "topologies" / "demo.toml")
    result = CliRunner().invoke(main, ["check", demo, "--set", override])
    assert result.exit_code == 2
    assert expected in result.output
    assert expected in README


def test_commands_of_the_readme_exist() -> None:
    for block in blocks("sh"):
        for verb in re.findall(r"^realnet (\w+)", block, flags=re.MULTILINE):
            assert verb in main.list_commands(click.Context(main))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


# They need vllm, and most a model of the hub; tests/roles/test_memory.py plans them without, and
# tests/vllm_engine runs cpu_vllm.
FETCHED = ("cpu_vllm", "gsm8k", "one_gpu", "one_node_8gpu", "two_nodes")


def test_paths_of_the_readme_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", README):
        assert (ROOT / name).exists(), name
    for file in topologies():
        resolve(read_source(file))


def topologies() -> list[Path]:
    return [p for p in (ROOT / "topologies").glob("*.toml") if p.stem not in ("rl", *FETCHED)]
