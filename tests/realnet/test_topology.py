"""Topology files: merging, wiring, laying out; each mistake refused by file, table and key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from realnet import ConfigError
from realnet.topology import Plan, read_plan, read_source, resolve, write_plan

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(HERE / "pipeline.py", tmp_path / "pipeline.py")
    text = (tmp_path / "pipeline.py").read_text()
    base = text[text.index('TOPOLOGY = """') + 14 :].partition('"""')[0]
    (tmp_path / "base.toml").write_text(base.format(num=5, workers=2))
    return tmp_path


def made(folder: Path, text: str, *overrides: str) -> Plan:
    (folder / "t.toml").write_text('extends = "base.toml"\n' + text)
    return resolve(read_source(folder / "t.toml", overrides))


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        made(folder, text, *overrides)
    return str(caught.value)


def test_plan_and_back(folder: Path) -> None:
    plan = made(folder, "")
    assert [s.name for s in plan.slots] == [
        "source/0",
        "worker/0",
        "worker/1",
        "helper/0",
        "sink/0",
    ]
    assert {(w.kind, w.from_role, w.to_role) for w in plan.wires} == {
        ("share", "source", "worker"),
        ("share", "worker", "sink"),
        ("ask", "worker", "helper"),
        ("state", "helper", "source"),
    }
    assert plan.stop_order == (("source",), ("worker",), ("helper", "sink"))
    assert plan.slots[0].after == ("worker/0", "worker/1")
    write_plan(plan, folder)
    assert read_plan(folder) == plan
    assert read_plan(folder).digest() == plan.digest()


def test_sections_merge_and_values_replace(folder: Path) -> None:
    plan = made(folder, "[roles.source]\nnum = 9\n", "roles.worker.count=3")
    assert plan.roles["source"].config["num"] == 9
    assert plan.roles["source"].kind == "pipeline.py:Source"
    assert plan.roles["worker"].count == 3


def test_like_copies_a_sibling_and_false_removes(folder: Path) -> None:
    text = '[roles.helper2]\nlike = "helper"\nfactor = 4\n[wires]\nhelp = "worker -> helper2"\n'
    plan = made(folder, text)
    assert plan.roles["helper2"].config["factor"] == 4
    left = refused(folder, "[wires]\nlevel = false\n")
    assert "base.toml: [roles.source]: its port level follows Level, and no wire ends" in left


TWO_WAYS = """
from realnet import Actor, Config, Delivery, Inlet, Message, Outlet

class Thing(Message):
    value: int

class Begin(Actor[Config]):
    out = Outlet(Thing)

class Middle(Actor[Config]):
    things = Inlet(Thing)
    good = Outlet(Thing)
    bad = Outlet(Thing)

class End(Actor[Config]):
    things = Inlet(Thing)
"""
TWO_WAYS_NET = """
[roles.begin]
kind = "two.py:Begin"
[roles.middle]
kind = "two.py:Middle"
[roles.end]
kind = "two.py:End"
[roles.bin]
kind = "two.py:End"
[wires]
rest = "middle.bad -> bin"
"""


def test_a_port_in_the_middle_of_a_chain_is_that_of_its_side(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_WAYS)

    def plan(work: str) -> Plan:
        (tmp_path / "t.toml").write_text(f'{TWO_WAYS_NET}work = "{work}"\n')
        return resolve(read_source(tmp_path / "t.toml"))

    for work in ("begin -> middle.good -> end", "begin.out -> middle.good -> end.things"):
        wires = {(w.from_role, w.from_port, w.to_role, w.to_port) for w in plan(work).wires}
        assert ("begin", "out", "middle", "things") in wires
        assert ("middle", "good", "end", "things") in wires
    choices = 'write "middle.good -> end.things"; "middle.bad -> end.things"'
    for work in ("begin -> middle -> end", "begin -> middle.things -> end"):
        with pytest.raises(ConfigError, match="more than one way") as caught:
            plan(work)
        assert choices in str(caught.value)


def test_place_puts_a_role_into_anothers_processes(folder: Path) -> None:
    plan = made(folder, '[roles.helper]\nplace = "worker"\n')
    assert [s.roles for s in plan.slots] == [
        ("source",),
        ("worker", "helper"),
        ("worker", "helper"),
        ("sink",),
    ]
    assert plan.roles["helper"].count == 2


MISTAKES = {
    "unknown key": (
        "[roles.source]\nnmu = 3\n",
        't.toml: [roles.source].nmu: no such key. Did you mean "num"?',
    ),
    "wrong type": ("[roles.source]\nnum = 'x'\n", "t.toml: [roles.source].num = 'x'"),
    "unknown table": (
        "[rolse.x]\na = 1\n",
        't.toml: [rolse]: no such table. Did you mean "roles"?',
    ),
    "unknown kind": ("[roles.other]\n", 't.toml: [roles.other]: no role kind is called "other".'),
    "no such class": (
        '[roles.source]\nkind = "pipeline.py:Sourse"\n',
        'pipeline.py has no "Sourse". Did you mean "Source"?',
    ),
    "no such file": ('[roles.source]\nkind = "pipelin.py:Source"\n', 'Did you mean "pipeline.py"?'),
    "not a role": ('[roles.source]\nkind = "pipeline.py:Number"\n', "is not an Actor class"),
    "unknown role in a wire": (
        '[wires]\nwork = "source -> wroker -> sink"\n',
        '[wires].work: "wroker" is no role of this topology. Did you mean "worker"?',
    ),
    "ends differ in type": (
        '[wires]\nwork = "source -> sink"\n',
        "source -> sink: the ends differ in type. source gives numbers: Outlet(Number)",
    ),
    "missing role": ("[roles]\nhelper = false\n", '"helper" is no role of this topology'),
    "unknown port": (
        '[wires]\nwork = "source.numbrs -> worker -> sink"\n',
        'source has no port "numbrs". Did you mean "numbers"?',
    ),
    "run key": ("[run]\nvieww = 'x'\n", 't.toml: [run].vieww: no such key. Did you mean "view"?'),
    "table nobody uses": (
        "[policy]\nmodel = 'x'\n",
        "[policy]: no role of this topology uses this",
    ),
    "bad count": (
        "[roles.worker]\ncount = 0\n",
        "[roles.worker].count = 0: Expected a whole number >= 1",
    ),
    "bad place": ('[roles.helper]\nplace = "wrker"\n', 'Did you mean "worker"?'),
    "ranks and mesh": (
        "[roles.worker]\nranks = 3\nmesh = { dp = 2, tp = 2 }\n",
        "[roles.worker].mesh: dp 2 x tp 2 makes 4 ranks, but ranks = 3; leave one out",
    ),
    "max below count": (
        "[roles.worker]\nmax = 1\n",
        "[roles.worker].max: less than count = 2: write at least that",
    ),
    "a secret's value": (
        "[roles.worker]\nsecrets = ['HF_TOKEN=hf_abc']\n",
        "[roles.worker].secrets: write names of environment variables, never their values",
    ),
    "secret and env": (
        "[roles.worker]\nsecrets = ['A']\nenv = { A = 1 }\n",
        "[roles.worker].env: A is in secrets as well; leave one out",
    ),
    "no such program": (
        "[roles.worker]\nspawn = ['numactle']\n",
        '[roles.worker].spawn: there is no program "numactle" on this machine',
    ),
    "no such pool": (
        "[roles.worker]\npool = 'bigg'\n[pools.big]\n",
        '[roles.worker].pool = "bigg": no such pool. Did you mean "big"?',
    ),
    "pool too small": (
        "[roles.worker]\ncpus = 2\npool = 'big'\n[pools.big]\ncpus = 3\n",
        "t.toml: [pools.big].cpus: its roles need 4 cores (worker 2 x 2 cores), it has 3 cores",
    ),
    "pool with small hosts": (
        "[roles.worker]\ngpus = 2\npool = 'big'\n[pools.big]\nhosts = ['a', 'b']\ngpus = 1\n",
        "[pools.big].gpus: one process of worker needs 2 GPUs, a host has 1 GPU",
    ),
    "key of a pool": ("[pools.big]\ncpu = 3\n", "t.toml: [pools.big].cpu: no such key."),
    "placed and counted": (
        "[roles.helper]\nplace = 'worker'\nranks = 2\n",
        "[roles.helper].ranks: it lives with worker and has as many members",
    ),
    "name of a role": ("[roles.'a/b']\nkind = 'pipeline.py:Helper'\n", "cannot name a role"),
    "progress": ("[roles.worker]\nprogress = '2 weeks'\n", "[roles.worker].progress = '2 weeks'"),
    "fat arrow": (
        "[wires]\nwork = 'source => worker -> sink'\n",
        'the arrow is written ->, not =>: "source -> worker -> sink"',
    ),
    "long arrow": ("[wires]\nhelp = 'worker ->> helper'\n", 'not ->>: "worker -> helper"'),
    "backward arrow": ("[wires]\nhelp = 'helper <- worker'\n", "gives stands on the left"),
    "wire the wrong way round": (
        "[wires]\nhelp = 'helper -> worker'\n",
        'takes numbers: Inlet(Number). The other way round fits: "worker -> helper"',
    ),
    "file without class": (
        "[roles.helper]\nkind = 'pipeline.py'\n",
        'kind = "pipeline.py": which class of it? Write kind = "pipeline.py:CLASS". It has: Helper',
    ),
    "wire that is missing": (
        "[wires]\nwork = 'source -> worker'\n",
        "[roles.worker]: its port squares gives Square, and no wire ends there. Write one, for "
        'example "worker -> sink"',
    ),
    "bad restart among others": (
        "[roles.worker]\nrestart = '5/min'\ncount = 'x'\n",
        "[roles.worker].restart = '5/min': write \"5 per 1min\", or false for never",
    ),
    "placed with one that is placed": (
        "[roles.helper]\nplace = 'worker'\n[roles.sink]\nplace = 'helper'\n",
        '[roles.sink].place = "helper": that role lives with another itself',
    ),
    "hole in a chain": ("[wires]\nhelp = 'worker -> '\n", "a role is missing beside an arrow"),
    "wire of numbers": ("[wires]\nhelp = 3\n", "[wires].help must be a chain"),
    "wire option": (
        "[wires]\nhelp = { path = 'worker -> helper', dedline = '1s' }\n",
        '[wires].help.dedline: no such key. Did you mean "deadline"?',
    ),
    "affinity to nothing": (
        "[wires]\nhelp = { path = 'worker -> helper', affinity = 'valu' }\n",
        'has no such field. Did you mean "value"? Fields: upto, value',
    ),
    "deadline of a share wire": (
        "[wires]\nwork = { path = 'source -> worker -> sink', deadline = '1s' }\n",
        "source -> worker is a share wire; only an ask wire has one; write that hop as",
    ),
    "one hop, two ways": (
        "[wires]\nmore = { path = 'worker -> helper', deadline = '9s' }\n",
        "[wires]: worker -> helper is on two wires with different options: "
        'wire "help" says worker -> helper with none, wire "more" says worker -> helper with '
        "deadline = 9 s. Take the hop out of one of them",
    ),
    "feedback of an ask wire": (
        "[wires]\nhelp = { path = 'worker -> helper', feedback = 3 }\n",
        "worker -> helper is an ask wire; only share wires can run in a circle",
    ),
    "bad restart": ("[roles.worker]\nrestart = 'often'\n", 'write "5 per 1min"'),
    "like nothing": ('[roles.x]\nlike = "workr"\n', 'Did you mean "worker"?'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused_by_name(folder: Path, name: str) -> None:
    text, expected = MISTAKES[name]
    assert expected in refused(folder, text)


def test_several_mistakes_come_at_once(folder: Path) -> None:
    text = refused(folder, "[roles.source]\nnmu = 3\n[roles.worker]\nwindw = 3\n[run]\nx = 1\n")
    assert len(text.splitlines()) == 3


def test_files(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no such topology file"):
        read_source(folder / "bsae.toml")
    (folder / "x.toml").write_text("a = [")
    with pytest.raises(ConfigError, match=r"x.toml: line 1, column 6: not TOML: .*\n    a = \["):
        read_source(folder / "x.toml")
    (folder / "x.toml").write_text('extends = "nowhere"')
    with pytest.raises(ConfigError, match='extends = "nowhere"'):
        read_source(folder / "x.toml")
    with pytest.raises(ConfigError, match=r"write table\.key=value"):
        resolve(read_source(folder / "base.toml", ["steps=3"]))


RING = (
    "from realnet import Actor, Config, Inlet, Message, Outlet\n"
    "class Ball(Message):\n    n: int\n"
    "class Player(Actor[Config]):\n"
    "    a = Inlet(Ball)\n    b = Outlet(Ball)\n"
    "    @a.handler\n    async def on_ball(self, item): ...\n"
)
PLAYERS = '[roles.x]\nkind = "ring.py:Player"\n[roles.y]\nkind = "ring.py:Player"\n[wires]\n'


def test_a_circle_of_share_wires_wants_a_reserve(folder: Path) -> None:
    (folder / "ring.py").write_text(RING)
    path = folder / "ring.toml"
    path.write_text(PLAYERS + 'a = "x -> y"\nb = "y -> x"\n')
    with pytest.raises(ConfigError) as caught:
        resolve(read_source(path))
    assert "share wires run in a circle: x -> y -> x." in str(caught.value)
    assert '{ path = "y -> x", feedback = 8 }' in str(caught.value)
    path.write_text(PLAYERS + 'a = "x -> y"\nb = { path = "y -> x", feedback = 8 }\n')
    plan = resolve(read_source(path))
    assert [w.feedback for w in plan.wires] == [0, 8]
    assert plan.stop_order == (("x",), ("y",))


LAMPS = (
    "from realnet import Actor, Config, Message, StateIn, StateOut\n"
    "class Light(Message):\n    n: int\n"
    "class Lamp(Actor[Config]):\n    a = StateOut(Light)\n"
    "class Eye(Actor[Config]):\n    c = StateIn(Light)\n    d = StateIn(Light)\n"
)


def test_one_state_is_not_shown_to_two_ports_of_a_role(folder: Path) -> None:
    (folder / "lamps.py").write_text(LAMPS)
    path = folder / "lamps.toml"
    path.write_text(
        '[roles.x]\nkind = "lamps.py:Lamp"\n[roles.y]\nkind = "lamps.py:Eye"\n'
        '[wires]\na = "x -> y.c"\nb = "x.a -> y.d"\nagain = "x.a -> y.c"\n'
    )
    with pytest.raises(ConfigError) as caught:
        resolve(read_source(path))
    assert "x.a is wired to two state ports of y: x.a -> y.c and x.a -> y.d" in str(caught.value)


def test_options_of_a_wire_and_of_a_role(folder: Path) -> None:
    plan = made(
        folder,
        "[wires]\nhelp = { path = 'worker -> helper', affinity = 'value', deadline = '2min' }\n"
        "[roles.worker]\nmemory = '2GiB'\nprogress = '90s'\nsecrets = ['TOKEN']\nmax = 4\n"
        "pool = 'big'\nenv = { A = true, B = 1.5 }\n[pools.big]\nhosts = ['h1', 'h2']\ncpus = 1\n",
    )
    wire = next(w for w in plan.wires if w.kind == "ask")
    assert (wire.affinity, wire.deadline_s) == ("value", 120.0)
    worker = plan.roles["worker"]
    assert (worker.memory_bytes, worker.progress_s, worker.max) == (2 << 30, 90.0, 4)
    assert (worker.secrets, worker.env) == (("TOKEN",), {"A": "1", "B": "1.5"})
    assert plan.pools[worker.pool].hosts == ("h1", "h2")


def test_a_gang_has_one_slot_a_rank_and_one_address(folder: Path) -> None:
    text = '[roles.worker]\nmesh = { dp = 2, tp = 2 }\n[roles.helper]\nplace = "worker"\n'
    plan = made(folder, text)
    gang = [s for s in plan.slots if s.gang == "worker/1"]
    assert [(s.name, s.rank, s.index) for s in gang] == [
        ("worker/1", 0, 1),
        ("worker/1.1", 1, 1),
        ("worker/1.2", 2, 1),
        ("worker/1.3", 3, 1),
    ]
    assert gang[0].roles == ("worker", "helper")
    assert gang[1].roles == ("worker",)
    assert plan.roles["worker"].ranks == 4
    assert next(s for s in plan.slots if s.name == "source/0").after == ("worker/0", "worker/1")


def test_secrets_are_not_repeated_and_open_ends_told_once(folder: Path) -> None:
    text = refused(folder, "[roles.worker]\nsecrets = { HF_TOKEN = 'hf_abc' }\n")
    assert text == "t.toml: [roles.worker].secrets: Expected list, got table"
    assert len(refused(folder, "[wires]\nwork = 'worker -> sink'\n").splitlines()) == 1
