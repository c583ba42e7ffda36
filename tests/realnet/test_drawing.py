"""What `realnet plan` says and draws: all that runs, in pictures where nothing overlaps."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from small_net import topology

from realnet.cli import main
from realnet.testing import plan_of
from realnet.topology import Plan, read_source, resolve
from realnet.topology.draw import graph_of, mermaid, svg, terminal
from realnet.topology.draw.svg import CHAR
from realnet.topology.show import describe

MORE = """
[roles.worker]
kind     = "pipeline.py:Worker"
mesh     = { dp = 2, tp = 2 }
max      = 3
gpus     = 1
memory   = "2GiB"
progress = "90s"
secrets  = ["HF_TOKEN"]
pool     = "big"
spawn    = ["env", "-i"]
[pools.big]
hosts = ["n1", "n2"]
gpus  = 4
"""


@pytest.fixture
def small(tmp_path: Path) -> Plan:
    return plan_of(topology(tmp_path), tmp_path)


@pytest.fixture
def large(tmp_path: Path) -> Plan:
    text = topology(tmp_path).replace("\n[wires]\n", MORE.partition("[pools")[0] + "\n[wires]\n")
    start = text.index('[roles.worker]\nkind  = "pipeline.py:Worker"\ncount')
    text = text[:start] + text[text.index("[roles.helper]") :]
    text = text.replace(
        'help  = "worker -> helper"',
        'help = { path = "worker -> helper", affinity = "value", deadline = "5s" }',
    )
    return plan_of(text + MORE[MORE.index("[pools") :] + '[run]\ntransport = "tcp"\n', tmp_path)


def test_terminal_shows_each_wire_from_end_to_end(small: Plan, large: Plan) -> None:
    for plan in (small, large, resolve(read_source(Path("demo")))):
        graph = graph_of(plan)
        lines = terminal(graph).splitlines()
        assert sum("◀" in line for line in lines) == len(graph.edges)
        assert sum(" → " in line for line in lines) == len(graph.edges)
        for line in lines:  # a corner is where a rail begins or ends: each edge has two
            assert line.count("◀") <= 1
        corners = sum(line.count(c) for line in lines for c in "╮╯")
        assert corners == 2 * len(graph.edges) + 2 * len(graph.boxes)


def test_mermaid(small: Plan) -> None:
    assert mermaid(graph_of(small)) == (
        "flowchart LR\n"
        '    r_source["source"]\n'
        '    r_worker["worker<br/><small>x 2</small>"]\n'
        '    r_helper["helper"]\n'
        '    r_sink["sink"]\n'
        '    r_source ==>|"Number"| r_worker\n'
        '    r_worker ==>|"Square"| r_sink\n'
        '    r_worker -->|"Scale, Count ?"| r_helper\n'
        '    r_helper -.->|"Level"| r_source\n'
    )


def segments(path: str) -> list[tuple[float, float, float, float]]:
    """The straight pieces of a path, corners taken as square."""
    corners = []
    for kind, numbers in re.findall(r"([MLQ])([^MLQ]*)", path):
        points = [float(n) for n in re.findall(r"-?[\d.]+", numbers)]
        corners.append((kind, points))
    points = [(p[0], p[1]) for kind, p in corners if kind != "L"]
    points.append((corners[-1][1][0], corners[-1][1][1]))
    return [(*a, *b) for a, b in itertools.pairwise(points)]


@pytest.mark.parametrize("which", ["small", "large", "demo"])
def test_svg_has_no_overlaps(which: str, request: pytest.FixtureRequest) -> None:
    plan = resolve(read_source(Path("demo"))) if which == "demo" else request.getfixturevalue(which)
    graph = graph_of(plan)
    root = ElementTree.fromstring(svg(graph))
    name = "{http://www.w3.org/2000/svg}"
    labels = []
    for text in root.iter(f"{name}text"):
        size = float(text.get("font-size", "0"))
        x, y, wide = float(text.get("x", "")), float(text.get("y", "")), len(text.text or "")
        labels.append((x, y - size * 0.8, x + wide * CHAR * size / 11, y + size * 0.2))
    for a, b in itertools.combinations(labels, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    lines = [
        segments(path.get("d", ""))
        for path in root.iter(f"{name}path")
        if path.get("marker-end") and "h26" not in path.get("d", "")
    ]
    assert len(lines) == len(graph.edges)
    for x0, y0, x1, y1 in itertools.chain(*lines):
        low, high = (min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))
        for left, top, right, bottom in labels:
            apart = high[0] <= left or right <= low[0] or high[1] <= top or bottom <= low[1]
            assert apart, ((x0, y0, x1, y1), (left, top, right, bottom))
    for one, other in itertools.combinations(lines, 2):
        for a, b in itertools.product(one, other):
            assert not _on_top(a, b), (a, b)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    assert all(v[0] >= 0 and v[2] <= width and v[1] >= 0 and v[3] <= height for v in labels)


def _on_top(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two pieces run along each other."""
    for flat, along in ((1, 0), (0, 1)):
        if a[flat] == a[flat + 2] == b[flat] == b[flat + 2]:
            low = max(min(a[along], a[along + 2]), min(b[along], b[along + 2]))
            high = min(max(a[along], a[along + 2]), max(b[along], b[along + 2]))
            return high > low
    return False


def test_a_plan_in_words(large: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text = describe(large)
    for part in (
        "worker/0.3           pipeline.py:Worker, rank 3 of gang worker/0: 1 core, 1 GPU, "
        "at least 40 MiB of 2048, started by env -i",
        "pool big (n1, n2): worker; they ask for 4 cores and 4 GPUs",
        "this machine: source, helper, sink; they ask for 3 cores",
        'wire "help" says worker -> helper; equal value to one member; deadline 5 s',
        "x 1 to 3, 4 ranks (dp 2 x tp 2), 1 GPU, on big; at most 5 restarts in 60 s; numbers: 4",
        "reported after 90 s without progress",
        "CURVE over tcp: one key for the head, one for each of:",
        "HF_TOKEN: for worker only; NOT set in this shell",
        "stop   source, then worker, then",
    ):
        assert part in text


def test_an_estimate_is_counted(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(
        "from realnet import Actor, Config\n"
        "class HeavyConfig(Config):\n    mib: int = 100\n"
        "class Heavy(Actor[HeavyConfig]):\n"
        "    @classmethod\n"
        "    def estimate(cls, config, shared):\n        return config.mib << 20\n"
    )
    text = '[roles.heavy]\nkind = "heavy.py:Heavy"\ncount = 2\nmib = 200\n'
    told = describe(plan_of(text, tmp_path))
    assert "heavy/1              heavy.py:Heavy: 1 core, at least 240 MiB" in told
    assert "together             at least 520 MiB, with the head" in told


def test_graph_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(topology(tmp_path))
    words = ["plan", str(tmp_path / "t.toml"), "--graph"]
    result = CliRunner().invoke(main, [*words, "svg", "-o", str(tmp_path / "t.svg")])
    assert result.exit_code == 0, result.output
    assert ElementTree.parse(tmp_path / "t.svg").getroot().tag.endswith("svg")
    assert "flowchart LR" in CliRunner().invoke(main, [*words, "mermaid"]).output
    assert "◀" in CliRunner().invoke(main, [*words, "terminal"]).output
