"""Restarts, their limits, the order of starting; who is alive. All without IO."""

from __future__ import annotations

from realnet.liveness import Beats, Hung, Recovered, Suspected
from realnet.supervision import Begin, Down, GiveUp, Restart, Slot, Spawn, Supervisor, Up


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
    assert s.exited("a/0", 1, 5, "exit code 2", fatal=True)[1] == GiveUp("a/0", "exit code 2")


def test_nothing_is_restarted_while_stopping() -> None:
    s = two()
    up(s)
    s.stop()
    assert s.exited("a/0", 1, 5, "exit code 0") == [Down("a/0", 1, "exit code 0")]
    assert s.tick(50) == []


def test_one_that_never_joins_is_named() -> None:
    s = two()
    s.start(0)
    assert s.tick(179) == []
    assert GiveUp("a/0", "did not join within 180 s") in s.tick(181)


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
