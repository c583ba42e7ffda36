"""Restarts, their limits, the order of starting; who is alive. All without IO."""

from __future__ import annotations

from pathlib import Path

from small_net import topology

from realnet.liveness import Beats, Hung, Recovered, Suspected
from realnet.supervision import (
    Begin,
    Down,
    Drop,
    Effect,
    GiveUp,
    Kill,
    Restart,
    Slot,
    Spawn,
    Supervisor,
    Up,
)
from realnet.testing.running import plan_of


def two() -> Supervisor:
    return Supervisor([Slot("a/0", after=("b/0",), restart=Restart(2, 60)), Slot("b/0")])


def up(s: Supervisor) -> None:
    s.start(0)
    s.joined("b/0", 1, 1)
    s.ready("b/0", 1, 1)
    s.joined("a/0", 1, 1)
    s.ready("a/0", 1, 1)


def test_all_are_spawned_at_once_and_begin_in_order() -> None:
    s = two()
    assert s.start(0) == [Spawn("a/0", 1), Spawn("b/0", 1)]
    assert s.joined("a/0", 1, 1) == []
    assert s.joined("b/0", 1, 2) == [Begin("b/0")]
    assert s.ready("b/0", 1, 3) == [Up("b/0", 1), Begin("a/0")]
    assert s.ready("a/0", 1, 4) == [Up("a/0", 1)]


def test_a_dead_one_alone_is_restarted_with_a_growing_pause() -> None:
    s = two()
    up(s)
    assert s.exited("a/0", 1, 10, "killed") == [Down("a/0", 1, "killed")]
    assert s.tick(10.05) == []
    assert s.tick(10.15) == [Spawn("a/0", 2)]
    assert s.exited("a/0", 1, 10.2, "late") == []  # a word of the old incarnation
    assert s.joined("a/0", 2, 11) == [Begin("a/0")]
    assert s.ready("a/0", 2, 12) == [Up("a/0", 2)]
    assert s.exited("a/0", 2, 13, "killed") == [Down("a/0", 2, "killed")]
    assert s.tick(13.15) == []
    assert s.tick(13.25) == [Spawn("a/0", 3)]


def test_too_many_restarts_end_the_run_and_old_ones_are_forgotten() -> None:
    s = two()
    up(s)
    now = 10.0
    for life in (1, 2):
        s.exited("a/0", life, now, "x")
        now += 5
        s.tick(now)
    effects = s.exited("a/0", 3, now, "x")
    assert effects[1] == GiveUp("a/0", "x; at most 2 restarts in 60 s are used up")
    s = two()
    up(s)
    for life in range(1, 6):
        assert len(s.exited("a/0", life, 100.0 * life, "x")) == 1
        s.tick(100.0 * life + 6)


def test_a_wrong_configuration_is_not_tried_again() -> None:
    s = two()
    up(s)
    assert s.exited("a/0", 1, 5, "exit code 2", fatal=True)[1] == GiveUp(
        "a/0", "exit code 2", "refused"
    )


def test_nothing_is_restarted_while_stopping() -> None:
    s = two()
    up(s)
    s.stop()
    assert s.exited("a/0", 1, 5, "exit code 0") == [Down("a/0", 1, "exit code 0")]
    assert s.tick(50) == []


def test_one_that_never_joins_is_killed_and_started_again() -> None:
    s = two()
    s.start(0)
    assert s.tick(179) == []
    late = Kill("a/0", "did not join within 180 s")
    assert late in s.tick(181)
    assert late not in s.tick(182)  # said once
    assert s.exited("a/0", 1, 183, "did not join", lost=True) == [Down("a/0", 1, "did not join")]
    assert s.tick(184) == [Spawn("a/0", 2)]


def test_what_ends_a_run_says_whether_another_try_may_go_well() -> None:
    for lost, cause in ((True, "lost"), (False, "failed")):
        s = Supervisor([Slot("a/0", restart=Restart(0))])
        s.start(0)
        effects = s.exited("a/0", 1, 5, "x", lost=lost)
        assert effects[1] == GiveUp("a/0", "x; at most 0 restarts in 60 s are used up", cause)


def pool(*names: str) -> Supervisor:
    policy = Restart(0, 60, "drop")
    s = Supervisor([Slot(n, restart=policy, pool="w") for n in names] + [Slot("z/0", names)])
    s.start(0)
    return s


def test_a_member_of_a_pool_is_dropped_while_others_are_left() -> None:
    s = pool("w/0", "w/1")
    text = "x; at most 0 restarts in 60 s are used up"
    assert s.exited("w/0", 1, 5, "x") == [Down("w/0", 1, "x"), Drop("w/0", text)]
    assert s.tick(1000) == [
        Kill("w/1", "did not join within 180 s"),
        Kill("z/0", "did not join within 180 s"),
    ]
    assert not s.slots["w/0"].coming
    assert s.exited("w/1", 1, 1001, "x")[1] == GiveUp("w/1", text)  # the last one


def test_nobody_waits_for_a_dropped_one() -> None:
    s = pool("w/0", "w/1")
    s.joined("z/0", 1, 1)
    s.joined("w/1", 1, 1)
    assert s.ready("w/1", 1, 2) == [Up("w/1", 1)]
    assert Begin("z/0") in s.exited("w/0", 1, 5, "x")


def gang(**restart: int) -> Supervisor:
    policy = Restart(**restart)
    names = ("t/0", "t/0.1", "t/0.2")
    s = Supervisor([Slot("g/0"), *(Slot(n, ("g/0",), policy, "t", "t/0") for n in names)])
    s.start(0)
    for name in ("g/0", *names):
        s.joined(name, 1, 1)
    return s


def gang_up(s: Supervisor) -> list[Effect]:
    s.ready("g/0", 1, 2)
    effects: list[Effect] = []
    for name in ("t/0.2", "t/0", "t/0.1"):
        effects = s.ready(name, 1, 3)
    return effects


def test_a_gang_begins_and_is_up_as_one() -> None:
    s = gang()
    assert s.slots["t/0"].state == "joined"  # g/0 is not up
    assert s.ready("g/0", 1, 2)[1:] == [Begin("t/0"), Begin("t/0.1"), Begin("t/0.2")]
    assert s.ready("t/0.2", 1, 3) == []
    assert s.ready("t/0", 1, 3) == []
    assert s.ready("t/0.1", 1, 3) == [Up("t/0", 1), Up("t/0.1", 1), Up("t/0.2", 1)]


def test_a_dead_rank_takes_its_gang_down_and_all_come_back_under_one_incarnation() -> None:
    s = gang()
    gang_up(s)
    because = "t/0.2 of its gang died: killed"
    assert s.exited("t/0.2", 1, 10, "killed") == [
        Down("t/0.2", 1, "killed"),
        Down("t/0", 1, because, with_gang=True),
        Kill("t/0", because),
        Down("t/0.1", 1, because, with_gang=True),
        Kill("t/0.1", because),
    ]
    assert s.tick(11) == []  # the old processes are not gone yet
    assert s.exited("t/0", 1, 11, "killed") == []
    assert s.tick(12) == []
    assert s.exited("t/0.1", 1, 12, "killed") == []
    assert s.tick(12) == [Spawn("t/0", 2), Spawn("t/0.1", 2), Spawn("t/0.2", 2)]
    assert len(s.slots["t/0"].deaths_s) == 1  # one death, whatever its ranks
    assert s.joined("t/0", 2, 13) == s.joined("t/0.1", 2, 13) == []
    assert s.joined("t/0.2", 2, 13) == [Begin("t/0"), Begin("t/0.1"), Begin("t/0.2")]


def test_a_rank_that_dies_while_its_gang_starts_takes_all_down() -> None:
    s = gang(times=0)
    effects = s.exited("t/0.1", 1, 5, "boom")
    assert effects[-1] == GiveUp("t/0.1", "boom; at most 0 restarts in 60 s are used up")
    assert Kill("t/0", "t/0.1 of its gang died: boom") in effects


def test_the_ranks_of_a_gang_end_one_by_one_when_the_run_stops() -> None:
    s = gang()
    gang_up(s)
    s.exited("t/0.2", 1, 4, "killed")
    s.stop()
    assert s.exited("t/0", 1, 5, "killed") == []
    assert s.slots["t/0"].state == "stopped"
    assert s.tick(60) == []


def test_processes_that_wait_for_each_other_in_a_circle_begin_all_the_same() -> None:
    s = Supervisor([Slot("a/0", after=("b/0",)), Slot("b/0", after=("a/0",))])
    s.start(0)
    assert s.joined("a/0", 1, 1) == []
    assert s.joined("b/0", 1, 1) == [Begin("a/0")]
    assert s.ready("a/0", 1, 2) == [Up("a/0", 1), Begin("b/0")]


def test_beats() -> None:
    beats = Beats(3, 10)
    beats.watch("a", 0)
    assert beats.tick(2.9) == []
    assert beats.tick(3.0) == [Suspected("a", 3.0)]
    assert beats.tick(5.0) == []  # told once
    assert beats.beat("a", 6.0) == [Recovered("a", 6.0)]
    assert beats.beat("a", 7.0) == []
    assert beats.tick(10.5) == [Suspected("a", 3.5)]
    assert beats.tick(17.0) == [Hung("a", 10.0)]
    assert beats.tick(30.0) == []
    assert beats.beat("a", 31.0) == []  # the late beat of one that was given up
    beats.watch("a", 31.0)
    beats.forget("a")
    assert beats.tick(60.0) == []


def test_a_topology_says_what_follows_when_patience_ends(tmp_path: Path) -> None:
    old = 'restart = "50 per 1min"'
    new = 'restart = { times = 2, per = "30s", then = "drop" }'
    new += '\nprogress = { budget = "2min", then = "restart" }'
    plan = plan_of(topology(tmp_path).replace(old, new, 1), tmp_path).roles["worker"]
    assert (plan.restarts, plan.restart_per_s, plan.restart_then) == (2, 30.0, "drop")
    assert (plan.progress_s, plan.progress_then) == (120.0, "restart")
    short = plan_of(topology(tmp_path).replace(old, 'progress = "90s"', 1), tmp_path)
    assert (short.roles["worker"].progress_s, short.roles["worker"].progress_then) == (90.0, "")
