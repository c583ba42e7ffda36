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
    assert "base.toml: [roles.source]: its port level follows Level, and no role here is" in left


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
        "[roles.worker].count = 0: must be a whole number",
    ),
    "bad place": ('[roles.helper]\nplace = "wrker"\n', 'Did you mean "worker"?'),
    "not in this build": ("[roles.worker]\nranks = 2\n", "[roles.worker].ranks: not in this build"),
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
    with pytest.raises(ConfigError, match=r"x.toml: not TOML"):
        read_source(folder / "x.toml")
    (folder / "x.toml").write_text('extends = "nowhere"')
    with pytest.raises(ConfigError, match='extends = "nowhere"'):
        read_source(folder / "x.toml")
    with pytest.raises(ConfigError, match=r"write table\.key=value"):
        read_source(folder / "base.toml", ["steps=3"])


def test_a_circle_of_share_wires_is_refused(folder: Path) -> None:
    (folder / "ring.py").write_text(
        "from realnet import Actor, Config, Inlet, Message, Outlet\n"
        "class Ball(Message):\n    n: int\n"
        "class Player(Actor[Config]):\n"
        "    a = Inlet(Ball)\n    b = Outlet(Ball)\n"
        "    @a.handler\n    async def on_ball(self, item): ...\n"
    )
    (folder / "ring.toml").write_text(
        '[roles.x]\nkind = "ring.py:Player"\n[roles.y]\nkind = "ring.py:Player"\n'
        '[wires]\na = "x -> y"\nb = "y -> x"\n'
    )
    with pytest.raises(ConfigError, match="share wires run in a circle through x, y"):
        resolve(read_source(folder / "ring.toml"))
