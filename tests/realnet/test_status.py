"""What a run is doing now: the chain of waits, and the verbs that read a run's folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from realnet.cli import main
from realnet.control import Join, Peer
from realnet.host import clock_name
from realnet.observe.status import (
    ActorStatus,
    RunStatus,
    SlotStatus,
    busy_shares,
    chain,
    write_status,
)
from realnet.observe.view import View
from realnet.roster import Rate, ahead_of
from realnet.topology import Plan, WirePlan, write_plan
from realnet.topology.plan import SlotPlan
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


def test_what_a_role_says_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text may come from anywhere: an exception's, a model's. It is shown, and does nothing."""
    monkeypatch.setattr("realnet.observe.status._alive", lambda _: True)
    runs = ["--runs", str(tmp_path)]
    hostile = "[/b] \x1b[31mred\x1b]0;title\x07\nsecond line \u202e"
    folder = tmp_path / "mine"
    folder.mkdir()
    write_plan(plan(), folder)
    state = status(sink=ActorStatus(hostile, waits=[(hostile, 2.0, ())]))
    for state.end in ("", hostile):
        write_status(state, folder)
        for verb in ("ls", "top", "why"):
            result = CliRunner().invoke(main, [verb, *runs])
            assert result.exit_code == 0, (verb, result.output, result.exception)
            assert "\x1b" not in result.output
            assert "\u202e" not in result.output
            assert "[/b] \u241b[31mred" in " ".join(result.output.split()) or not (
                state.end or verb == "why"
            )
    assert len(CliRunner().invoke(main, ["ls", *runs]).output.splitlines()) == 1
    text = io.StringIO()
    View(Console(file=text, width=200)).say(hostile)
    assert text.getvalue() == "[/b] \u241b[31mred\u241b]0;title\u2407\nsecond line \ufffd\n"


def slots(**made: SlotStatus) -> RunStatus:
    return RunStatus("r", os.getpid(), 1, 12.0, slots={f"{n}/0": s for n, s in made.items()})


def planned() -> Plan:
    """source -> worker -> sink, and the worker asks the helper."""
    made = plan()
    ask = WirePlan("ask", "worker", "helper", "helper", "", ("X",), "")
    names = ("source", "worker", "sink", "helper")
    of = tuple(SlotPlan(f"{n}/0", 0, (n,), ()) for n in names)
    return msgspec.structs.replace(made, wires=(*made.wires, ask), slots=of)


def one(name: str, actor: ActorStatus, **more: float) -> SlotStatus:
    return SlotStatus("up", actors={f"{name}/0": actor}, **more)


def test_a_frozen_process_is_the_blocker() -> None:
    asks = ActorStatus(waits=[("helper/0 (Scale)", 8.0, ("helper/0",))])
    state = slots(
        sink=one("sink", ActorStatus()),
        worker=one("worker", asks),
        helper=one("helper", ActorStatus("judges", busy=0.9), silent_s=7.5),
    )
    assert chain(planned(), state)[-1] == (
        "    helper/0 has not answered for 7.5 s (last: judges) <- it holds this up"
    )


def test_a_pool_of_which_nobody_is_up_is_the_blocker() -> None:
    wait = ("somebody who answers Scale", 5.0, ())
    dead = SlotStatus("down", restarts=3, failure="killed by SIGKILL", since_s=0.5)
    state = slots(
        sink=one("sink", ActorStatus()),
        worker=one("worker", ActorStatus(waits=[wait])),
        helper=dead,
    )
    text = "is down for 0.5 s (restart 3); it died: killed by SIGKILL"
    assert chain(planned(), state) == [
        f"helper/0 {text}",
        "sink/0 is idle: no work comes",
        "  worker/0 waits 5.0 s for somebody who answers Scale",
        f"    helper/0 {text} <- it holds this up",
    ]


def test_a_dead_taker_that_is_started_again_is_the_blocker() -> None:
    wait = ("a taker of squares (none is up)", 20.0, ())
    state = slots(
        sink=SlotStatus("starting", restarts=1, failure="CUDA out of memory", since_s=20.0),
        worker=one("worker", ActorStatus(waits=[wait])),
        source=one("source", ActorStatus(waits=[("room", 19.0, ("worker/0",))])),
    )
    why = "is starting for 20.0 s (restart 1); it died: CUDA out of memory"
    assert chain(planned(), state) == [
        f"sink/0 {why}",
        "source/0 waits 19.0 s for room",
        "  worker/0 waits 20.0 s for a taker of squares (none is up)",
        f"    sink/0 {why} <- it holds this up",
    ]


def test_rates_are_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_s == 0
    for second in range(20):
        rate.add(100 * second if second < 10 else 900 + 10 * second, second)
    assert rate.per_s == pytest.approx(10)
    rate.add(0, 30)  # a new life counts from the start
    assert rate.per_s == 0


def test_one_clock_is_one_however_long_its_message_took() -> None:
    """A member and its head of one boot: a host so busy that joining took long shifts no times."""

    def join(clock_s: float, clock: str) -> Join:
        return Join(Peer("a/0~1", "ipc://a", ("a/0~1",)), 1, clock_s=clock_s, clock=clock)

    assert ahead_of(join(10.0, "boot"), 19.5, "boot") == 0.0
    assert ahead_of(join(10.0, "other"), 19.5, "boot") == 9.5
    assert ahead_of(join(10.0, ""), 11.0, "") == 0.0  # no name: what a message takes
    assert ahead_of(join(10.0, ""), 19.5, "") == 9.5
    assert ahead_of(join(0.0, ""), 19.5, "boot") == 0.0
    assert clock_name() == clock_name()
