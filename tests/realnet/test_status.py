"""What a run is doing now: the chain of waits, and the verbs that read a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from realnet.cli import main
from realnet.observe.status import (
    ActorStatus,
    RunStatus,
    SlotStatus,
    busy_shares,
    chain,
    write_status,
)
from realnet.topology import Plan, WirePlan, write_plan
from realnet.waits import Waits


def plan() -> Plan:
    def share(a: str, b: str) -> WirePlan:
        return WirePlan("share", a, "out", b, "in", ("X",), "")

    wires = (share("source", "worker"), share("worker", "sink"))
    return Plan("r", "r", "t.toml", ".", {}, wires, (), (), {}, {})


def status(**actors: ActorStatus) -> RunStatus:
    slots = {f"{n}/0": SlotStatus("up", actors={f"{n}/0": a}) for n, a in actors.items()}
    return RunStatus("r", os.getpid(), 1, 12.0, slots=slots)


def test_the_chain_ends_at_the_blocker() -> None:
    lines = chain(
        plan(),
        status(
            sink=ActorStatus(waits=[("17 of 32 groups", 9.0, ())]),
            worker=ActorStatus(waits=[("helper/0 (Scale)", 8.0, ("helper/0",))]),
            helper=ActorStatus("multiplies", busy=0.97),
            source=ActorStatus(),
        ),
    )
    assert lines == [
        "sink/0 waits 9.0 s for 17 of 32 groups",
        "  worker/0 waits 8.0 s for helper/0 (Scale)",
        "    helper/0: multiplies (97% busy) <- nothing holds it up",
    ]


def test_idle_ones_are_followed_upstream_and_circles_end() -> None:
    lines = chain(
        plan(),
        status(
            sink=ActorStatus(),
            worker=ActorStatus(),
            source=ActorStatus(waits=[("room for numbers at worker/0", 3.0, ("worker/0",))]),
        ),
    )
    assert lines == [
        "sink/0 is idle: no work comes",
        "  worker/0 is idle: no work comes",
        "    source/0 waits 3.0 s for room for numbers at worker/0",
        "      worker/0 (see above)",
    ]


def test_a_process_that_is_down_comes_first() -> None:
    state = status(sink=ActorStatus(), source=ActorStatus())
    state.slots["worker/0"] = SlotStatus("starting", restarts=2)
    lines = chain(plan(), state)
    assert lines[0] == "worker/0 is starting (restart 2)"


def test_waits_are_told_longest_first_and_equal_ones_once() -> None:
    now = [10.0]
    waits = Waits(lambda: now[0])
    with waits.on("a/0", "room", ("b/0",)):
        now[0] = 12.0
        with waits.on("a/0", "room", ("b/0",)), waits.on("a/0", "weights"), waits.on("c/0", "x"):
            now[0] = 13.0
            assert waits.of("a/0") == [("room", 3.0, ("b/0",)), ("weights", 1.0, ())]
    assert waits.of("a/0") == []


def test_busy_shares_count_the_last_seconds_only() -> None:
    spans = {"a/0": [(0.0, 50.0), (96.0, 97.0), (98.5, 99.0)], "b/0": [(0.0, 100.0)]}
    assert busy_shares(spans, 100.0) == {"a/0": pytest.approx(0.3), "b/0": 1.0}


def test_the_verbs(tmp_path: Path) -> None:
    runs = ["--runs", str(tmp_path)]
    empty = CliRunner().invoke(main, ["why", *runs])
    assert empty.exit_code == 1
    assert "there are no runs under" in empty.output
    folder = tmp_path / "mine"
    (folder / "attempts" / "latest" / "logs").mkdir(parents=True)
    (folder / "attempts" / "latest" / "logs" / "sink-0.log").write_text("one\ntwo\n")
    write_plan(plan(), folder)
    state = status(sink=ActorStatus(waits=[("groups", 2.0, ())]), worker=ActorStatus())
    state.pid = 2**22 + 1  # nobody
    write_status(state, folder)
    assert "is gone without a last word" in CliRunner().invoke(main, ["ls", *runs]).output
    wrong = CliRunner().invoke(main, ["top", "mien", *runs])
    assert 'Did you mean "mine"' in wrong.output
    shown = CliRunner().invoke(main, ["top", "--once", *runs]).output
    assert "groups (2 s)" in shown
    assert "two" in CliRunner().invoke(main, ["logs", "mine", "sink", *runs]).output
