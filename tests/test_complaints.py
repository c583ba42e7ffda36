"""What `realnet check` says of wrong topologies: every mistake, each cause once, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from realnet.cli import main

# name -> (the file, what each complaint says among other things)
BAD: dict[str, tuple[str, list[str]]] = {
    "values": (
        'extends = "demo"\n[roles.trainer]\nlr = "fast"\ncount = "two"\nprogress = "10sec"\n'
        'memory = "4 gb"\n[run]\ngrace = "10 m"\nuntil = { step = 3 }\n',
        [
            "[roles.trainer].count = 'two': Expected a whole number, got a text",
            "[roles.trainer].progress = '10sec': it is not a time: write a number and one of ms, "
            's, min, h, d. Did you mean "10s"?',
            "[roles.trainer].memory = '4 gb': it is not a size: write a number and one of B, KB, "
            'MB, GB, KiB, MiB, GiB. Did you mean "4GB"?',
            "[roles.trainer].lr = 'fast': Expected a number, got a text",
            "[run].grace = '10 m': it is not a time: write a number and one of ms, s, min, h, d. "
            'Did you mean "10min"?',
            '[run].until.step: no such key. Did you mean "steps"? It knows: steps, time',
        ],
    ),
    "keys of other tables": (
        'extends = "demo"\n[roles.trainer]\nbatch = 4\n[roles.generator]\ngpu = 1\n',
        [
            '[roles.generator].gpu: no such key. Did you mean "gpus"? It knows: engine',
            "[roles.trainer].batch: no such key. It belongs in [policy]. It knows: ",
        ],
    ),
    "one cause, many copies": (
        'extends = "demo"\n[tasks.a]\nlike = "addz"\nlimt = 3\nreward = "exact"\n[tasks.b]\n'
        'like = "a"\n[tasks.c]\nlike = "b"\n',
        [
            '[tasks.a].limt: no such key. Did you mean "limit"?',
            "[tasks.a].reward = 'exact': Expected table, got a text: write { \"name\" = value }",
        ],
    ),
    "no extends": (
        '[policy]\nmodel = "new:llama"\ntokenizer = "new:chars"\nshape = { hidden_size = 64, '
        "num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 192 }\n"
        '[tasks.addz]\ndata = "new:addz"\nreward = { exact = 1.0 }\n[roles.generator]\n'
        "[roles.trainer]\n",
        ['its roles have no other ends. Is extends = "rl" missing at its top?'],
    ),
    "no extends and no roles": (
        "[policy]\nbatch = 3\n",
        ['no [roles.X]: a topology needs at least one role. Is extends = "rl" missing at its top?'],
    ),
    "a wire to a role of rl": (
        '[roles.echo]\nkind = "echo.py:Echo"\n[wires]\na = "echo -> trainer"\n',
        ['[wires].a: "trainer" is no role of this topology. Roles: echo. "rl" has it: is extends'],
    ),
    "wires": (
        'extends = "demo"\n[wires]\nwork = "prompter -> driver.tickts -> rewarder -> trainer"\n'
        'more = "prompter -> trainer"\neval = "evaluator => driver"\nevall = false\n',
        [
            '[wires].evall = false: there is no such wire to remove. Did you mean "eval"?',
            '[wires].work: driver has no port "tickts". Did you mean "tickets"? Its ports: closed',
            "[wires].more: prompter -> trainer: the ends differ in type. prompter gives tickets: "
            "Outlet(Ticket)",
            '[wires].eval = "evaluator => driver": the arrow is written ->, not =>: '
            '"evaluator -> driver"',
        ],
    ),
    "classes": (
        'extends = "demo"\n[roles.rewarder]\nkind = "rewarer"\n[roles.trainer]\n'
        'kind = "nope.mod:X"\n[run]\nview = "realnet.roles.face.view:RLVew"\n',
        [
            '[roles.rewarder]: no role kind is called "rewarer". Did you mean "rewarder"?',
            "[roles.trainer]: there is no module nope; is its package installed?",
            '[run].view: realnet.roles.face.view has no "RLVew". Did you mean "RLView"?',
        ],
    ),
    "references": (
        'extends = "demo"\n[policy]\nmodel = "hff:Qwen/Qwen2.5-0.5B"\n[tasks.addz]\n'
        'data = "https://huggingface.co/datasets/openai/gsm8k"\n',
        [
            "[policy].model = 'hff:Qwen/Qwen2.5-0.5B': no reference begins with \"hff:\". "
            'Did you mean "hf:Qwen/Qwen2.5-0.5B"?',
            "[tasks.addz].data = 'https://huggingface.co/datasets/openai/gsm8k': no reference "
            'begins with "https:". Did you mean "hf:openai/gsm8k"?',
        ],
    ),
    "tables": (
        'extends = "demo"\nbatch = 3\n[polcy]\nx = 1\n[roles]\ntrainer = 3\ndrivr = false\n',
        [
            "batch: it stands above all tables, where only extends and title do. Move it below",
            '[polcy]: no such table. Did you mean "policy"?',
            "[roles.trainer] must be a table: write [roles.trainer], not 3",
            "[roles].drivr = false: there is nothing of that name to remove. Did you mean "
            '"driver"?',
        ],
    ),
    "like": (
        'extends = "demo"\n[tasks.a]\nlike = "b"\n[tasks.b]\nlike = "a"\n[tasks.c]\nlike = "adz"\n',
        [
            '[tasks.b].like = "a": it runs in a circle. [tasks] has: ',
            '[tasks.c].like = "adz": no such section beside it. Did you mean "addz"?',
        ],
    ),
    "like, of roles": (
        'extends = "words"\n[roles.a]\nlike = "b"\n[roles.b]\nlike = "a"\n',
        ['[roles.b].like = "a": it runs in a circle. [roles] has: '],
    ),
    "units that no machine has": (
        'extends = "words"\n[run]\nhung = "1e400s"\nsuspect = inf\n[roles.counter]\n'
        'memory = "1e400 GB"\n',
        [
            "[run].hung = '1e400s': it is not a time: no machine counts so far",
            "[run].suspect = inf: it is not a time: write for example",
            "[roles.counter].memory = '1e400 GB': it is not a size: no machine counts so far",
        ],
    ),
    "wires of roles that are not there": (
        '[roles.a]\nkind = "echo.py:Ecco"\n[roles.b]\nkind = "echo.py:Echo"\n'
        '[wires]\nw = "a -> c -> b.out -> c -> a"\nx = "bb -> a"\n',
        [
            'echo.py has no "Ecco". Did you mean "Echo"?',
            '[wires].w: "c" is no role of this topology. Roles: a, b',
            '[wires].x: "bb" is no role of this topology. Did you mean "b"? Roles: a, b',
        ],
    ),
    "policy twice": (
        'extends = "demo"\n[policies.b]\nmodel = "new:llama"\n',
        [
            "[policy]: there are [policies.X] as well: write one or the other",
            '[policy].tokenizer is missing: "new:llama" has none of its own.',
        ],
    ),
    "a list of tables": ('[[roles]]\nkind = "x"\n', ["[roles] must be a table: write [roles], [["]),
    "quotes": (
        'extends = "rl"\n[policy]\nmodel = new:llama\n',
        [
            "line 3, column 9: not TOML: Invalid value. A text stands in quotes: "
            'model = "new:llama"\n    model = new:llama\n            ^'
        ],
    ),
    "colon": ("[policy]\nbatch: 32\n", ["line 2, column 6: not TOML: Expected '=' after a key"]),
    "True": ("[policy]\nchat = True\n", ["line 2, column 8: not TOML: Invalid value. Write true."]),
    "typographic quotes": ("extends = \u201cdemo\u201d\n", ["It has typographic quotes"]),
    "open table": ("[policy\nbatch = 3\n", ["A table's name ends with ]."]),
    "twice": (
        "[policy]\nbatch = 3\nbatch = 4\n",
        ['Cannot overwrite a value. "batch" is written twice in one table.'],
    ),
    "no roles, and what else is wrong": (
        '[role.a]\nkind = "x"\n[run]\ntransport = "udp"\n[pools.x]\nnode = 1\n',
        [
            '[role]: no such table. Did you mean "roles"?',
            '[pools.x].node: no such key. Did you mean "nodes"?',
            "[run].transport = 'udp': no such value. It may be: ipc, tcp",
        ],
    ),
    "no member can be served": (
        '[roles.echo]\nkind = "echo.py:Echo"\ncount = 3000\nranks = 4\nlike = false\n',
        [
            "[roles.echo].count: 12000 processes; a role has at most 10000",
            "[roles.echo].like = false: it names a section beside it.",
        ],
    ),
    "code that is none": (
        '[roles.a]\nkind = "broken.py:A"\n[roles.b]\nkind = "broken_below.py:B"\n[roles.c]\n'
        'kind = "ending.py:C"\n[roles.d]\nkind = "echo.py:Ecco"\n',
        [
            "broken.py cannot be loaded: line 1: SyntaxError: ",
            "broken_below.py cannot be loaded: line 2: ModuleNotFoundError: No module named 'no_",
            "ending.py cannot be loaded: line 1: SystemExit: 3",
            'echo.py has no "Ecco". Did you mean "Echo"?',
        ],
    ),
    "extends nothing": ('extends = "dmo"\n', ['Did you mean "demo"? With realnet come: ']),
}
CODE = {
    "echo.py": "from realnet import Actor, Config\nclass Echo(Actor[Config]):\n    pass\n",
    "broken.py": "def f(:\n",
    "broken_below.py": "import json\nimport no_such_module\n",
    "ending.py": "raise SystemExit(3)\n",
}


def complaints(path: Path, *overrides: str) -> list[str]:
    words = [w for o in overrides for w in ("--set", o)]
    result = CliRunner().invoke(main, ["check", str(path), *words])
    assert result.exit_code == 2, result.output
    return result.output.removeprefix("error: ").rstrip("\n").split("\nerror: ")


@pytest.mark.parametrize("name", BAD)
def test_every_mistake_is_told_once(tmp_path: Path, name: str) -> None:
    text, expected = BAD[name]
    (tmp_path / "t.toml").write_text(text)
    for file, code in CODE.items():
        (tmp_path / file).write_text(code)
    told = complaints(tmp_path / "t.toml")
    for part in expected:
        assert any(part in complaint for complaint in told), (part, told)
    for complaint in told:
        assert complaint.partition(":")[0] == ("demo.toml" if name == "policy twice" else "t.toml")
    assert len(told) == len(expected), told


def test_a_mistake_in_a_file_below_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text('extends = "demo"\n[roles.trainer]\nlrr = 3\n')
    (tmp_path / "t.toml").write_text('extends = "below.toml"\n[roles.trainer]\nlr = 3e-4\n')
    told = complaints(tmp_path / "t.toml")
    assert len(told) == 1
    assert told[0].startswith('below.toml: [roles.trainer].lrr: no such key. Did you mean "lr"?')


def test_extends_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    told = complaints(tmp_path / "a.toml")
    assert told == ["a.toml: `extends` runs in a circle: a.toml -> b.toml -> a.toml"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.until.steps", "write table.key=value, for example run.until.steps=5"),
        ("rnu.until.steps=3", 'Did you mean "run"?'),
        ("trainer.lr=3", "Did you mean roles.trainer.lr=3?"),
        ("roles.trianer.lr=3", 'there is no [roles.trianer]. Did you mean "trainer"?'),
        ("roles.trainer.lrr=3", '--set: [roles.trainer].lrr: no such key. Did you mean "lr"?'),
        ("roles.trainer=3", "[roles.trainer] is a table; set a key of it"),
        ("wires.evall=false", 'there is nothing of that name to remove. Did you mean "eval"?'),
        ("policy.batch.x=3", "policy.batch is 32, not a table"),
        ("policy.shape={ a = ", "the value is no TOML"),
        ("policy.batch=", "there is no value after the ="),
        ("tasks.adz.limit=3", 'there is no [tasks.adz]. Did you mean "addz"?'),
    ],
)
def test_set_complains_of_bad_paths(override: str, expected: str) -> None:
    told = complaints(Path("demo"), override)
    assert len(told) == 1
    assert expected in told[0]


def test_bad_sets_come_together() -> None:
    told = complaints(Path("demo"), "roles.trianer.lr=3", "run.grace=1 parsec", "wires.x=false")
    assert len(told) == 3


def test_set_reaches_every_table() -> None:
    from realnet.topology import read_source, resolve

    sets = (
        "title=other",
        "run.until.steps=3",
        'tasks.addz.reward."exact"=0.5',
        "tasks.addz_test_forced=false",
        "roles.more.like=rewarder",
        "roles.more.count=2",
        "wires.more=driver -> more -> trainer",
        "pools.big.cpus=64",
        "roles.generator.pool=big",
        "policy.shape.hidden_size=32",
    )
    plan = resolve(read_source(Path("demo"), sets))
    assert plan.title == "other"
    assert plan.run["grace"] == 25
    assert plan.shared["tasks"]["addz"]["reward"] == {"exact": 0.5}
    assert "addz_test_forced" not in plan.shared["tasks"]
    assert plan.roles["more"].count == 2
    assert plan.pools["big"].cpus == 64
    assert plan.shared["policy"]["policy"]["shape"]["hidden_size"] == 32


def test_paths_start_from_the_file_that_wrote_them(tmp_path: Path) -> None:
    from realnet.topology import read_source

    below = tmp_path / "below"
    below.mkdir()
    (below / "rows.jsonl").write_text("{}\n")
    (below / "base.toml").write_text(
        'extends = "demo"\n[tasks.addz]\ndata = "./rows.jsonl"\n'
        'reward = { "mine.py:score" = 1.0, exact = 0.5 }\n'
    )
    (tmp_path / "t.toml").write_text(
        'extends = "below/base.toml"\n[tasks.own]\nlike = "addz"\ndata = "./mine.jsonl"\n'
    )
    tasks = read_source(tmp_path / "t.toml").tables["tasks"]
    assert tasks["addz"]["data"] == str(below / "rows.jsonl")
    assert tasks["addz"]["reward"] == {f"{below}/mine.py:score": 1.0, "exact": 0.5}
    assert tasks["own"]["data"] == "./mine.jsonl"


def test_a_package_that_is_not_installed_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(
        "from realnet import Actor, Config\n"
        "class Needy(Actor[Config]):\n"
        "    @classmethod\n"
        "    def check(cls, config, shared, base):\n"
        "        raise ModuleNotFoundError('No module', name='jinja2')\n"
    )
    (tmp_path / "t.toml").write_text(
        '[roles.a]\nkind = "needy.py:Needy"\n[roles.b]\nkind = "needy.py:Needy"\n'
    )
    assert complaints(tmp_path / "t.toml") == [
        'the roles need jinja2, which is not installed: pip install "realnet-rl[train]"'
    ]
