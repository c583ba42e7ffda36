"""`realnet explain` and `realnet schema`: what is said of a key is what `check` holds it to."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from small_net import topology

from realnet.cli import main
from realnet.topology.roletable import RESERVED
from realnet.topology.source import all_shipped, shipped


def told(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trainer.lr"], ["roles.trainer.lr\n", "a number, > 0", "used by  trainer (Trainer)"]),
        (["demo", "trainer.lr"], ["roles.trainer.lr = 0.001    from demo.toml", "default  1e-06"]),
        (["trainer.lr", "demo"], ["roles.trainer.lr = 0.001    from demo.toml"]),
        (["demo", "generator.count"], ["roles.generator.count = 1    by default", ">= 1"]),
        (["demo", "driver.place"], ["roles.driver.place = 'generator'    from rl.toml"]),
        (["run.grace"], ['a time, "10s" or "3h"', 'default  "25s"', "used by  the framework"]),
        (["demo", "run.until"], ["run.until = {'steps': 120}    from demo.toml"]),
        (["demo", "run.until.steps"], ["run.until.steps = 120    from demo.toml"]),
        (["run.security"], ['one of "auto", "curve", "none"']),
        (["wires.llm.affinity"], ["wires.llm.affinity\n    field of the message"]),
        (["wires"], ["chains of roles", "wires.X.feedback  closes a circle of share wires"]),
        (["demo", "wires.work"], ["'prompter -> driver -> rewarder -> trainer'    from rl.toml"]),
        (["policy.model"], ["a reference: hf:owner/name", "none: it must be written"]),
        (["demo", "tasks.addz_test.limit"], ["tasks.addz_test.limit = 192    from demo.toml"]),
        (["demo", "policy.shape.hidden_size"], ["policy.shape.hidden_size = 64    from demo"]),
        (["policy"], ["policy: what all roles", "policy.batch", "roles.X.policy"]),
        (["trainer"], ["roles.trainer.lr "]),
        (["like"], ["like: in a section: copies the section of that name"]),
        (["extends"], ["extends: the topology below this one"]),
        (["demo", "policy.batch"], ["policy.batch = 32    from demo.toml", "prompter (Prompter)"]),
    ],
)
def test_explain(words: list[str], parts: list[str]) -> None:
    text = told("explain", *words)
    for part in parts:
        assert part in text


def test_every_reserved_word_is_explained() -> None:
    for word in RESERVED:
        text = told("explain", f"roles.X.{word}")
        assert text.startswith(f"roles.X.{word}\n    "), word
        assert "used by  the framework, for every role" in text


def test_explain_works_on_a_topology_with_mistakes(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('extends = "demo"\n[roles.trainer]\nlr = "fast"\nlrr = 1\n')
    path = str(tmp_path / "t.toml")
    assert "roles.trainer.lr = 'fast'    from t.toml" in told("explain", path, "trainer.lr")
    assert "roles.trainer.lrr = 1    from t.toml" in told("explain", path, "trainer.lrr")


def test_explain_of_nothing_names_the_nearest() -> None:
    result = CliRunner().invoke(main, ["explain", "trainer.lrr"])
    assert result.exit_code == 2
    assert "there is no key 'trainer.lrr'. Did you mean \"trainer.lr\"?" in result.output


@pytest.fixture(scope="module")
def schema() -> Any:
    made = json.loads(told("schema"))
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


@pytest.mark.parametrize("name", all_shipped())
def test_shipped_topologies_are_valid(schema: Any, name: str) -> None:
    path = shipped(name)
    assert path is not None
    schema.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("[rolse.x]", False),
        ("[roles.trainer]\nlrr = 1", False),
        ("[roles.trainer]\nlr = 1e-4\nlr_end = 0.1\ncount = 2", True),
        ("[roles.trainer]\nlr = -1", False),
        ("[roles.x]\nkind = 'trainer'\nlrr = 1", False),
        ("[roles.x]\nkind = 'own.py:Trainer'\nlrr = 1", True),
        ("[roles.trainer]\nkind = 'own.py:Trainer'\nlrr = 1", True),
        ("[roles.x]\nkind = 'own.py:Trainer'\ncount = 0", False),
        ("[roles]\ntrainer = false", True),
        ("[run]\ngrace = '10 sec'", False),
        ("[run]\ngrace = '10s'\nuntil = { steps = 3 }", True),
        ("[run]\nuntil = { step = 3 }", False),
        ("[run]\ntransport = 'udp'", False),
        ("[policy]\nbatch = 'many'", False),
        ("[tasks.a]\nlike = 'b'\nuse = 'eval'\nlimit = false", True),
        ("[wires]\na = 'b -> c'\nd = { path = 'a -> b', deadline = '2min' }\ne = false", True),
        ("[wires]\na = 'b'", False),
        ("[wires]\na = { deadline = '2min' }", False),
        ("[pools.big]\nhosts = ['a']\ncpus = 4\nmemory = '64GiB'", True),
        ("[pools.big]\nhost = 'a'", False),
    ],
)
def test_the_schema_says_what_check_says(schema: Any, text: str, valid: bool) -> None:
    assert schema.is_valid(tomllib.loads(text)) is valid


def test_the_schema_of_a_topology_knows_its_own_roles(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(topology(tmp_path))
    told("schema", str(tmp_path / "t.toml"), "-o", str(tmp_path / "t.json"))
    validator = jsonschema.Draft7Validator(json.loads((tmp_path / "t.json").read_text()))
    tables = tomllib.loads((tmp_path / "t.toml").read_text())
    validator.validate(tables)
    tables["roles"]["source"]["nmu"] = 3
    assert not validator.is_valid(tables)
