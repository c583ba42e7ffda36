"""Progress budgets and compared records: the decisions."""

from __future__ import annotations

from realnet.agreement import Agreement
from realnet.stalls import Stalled, Stalls


def test_one_that_has_work_and_ends_nothing_is_told_once() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 10, 0)
    s.beat("a/0", 0, True, 1)
    assert s.tick(10.9) == []
    assert s.tick(11) == [Stalled("a/0", 10)]
    s.beat("a/0", 0, True, 12)
    assert s.tick(30) == []
    s.beat("a/0", 1, True, 31)  # it goes on: the next one is another stall
    assert s.tick(40.9) == []
    assert s.tick(41) == [Stalled("a/0", 10)]


def test_idleness_is_no_stall() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 10, 0)
    for now in range(100):
        s.beat("a/0", 7, False, now)
        assert s.tick(now) == []
    s.beat("a/0", 7, True, 100)
    assert s.tick(108.9) == []
    assert s.tick(109) == [Stalled("a/0", 10)]  # since it last had nothing to do


def test_no_budget_and_dead_ones_are_never_told() -> None:
    s = Stalls(0, 0)
    s.watch("a/0", 0, 0)
    s.watch("b/0", 5, 0)
    s.forget("b/0")
    s.beat("b/0", 1, True, 1)  # a late one
    assert s.tick(1e9) == []


def test_a_run_in_which_nothing_ends_is_told() -> None:
    s = Stalls(60, 0)
    s.watch("a/0", 0, 0)
    s.watch("b/0", 0, 0)
    s.beat("a/0", 1, True, 10)
    s.beat("b/0", 1, False, 30)
    s.beat("a/0", 1, True, 80)
    assert s.tick(89) == []
    assert s.tick(90) == [Stalled("", 60)]
    assert s.tick(200) == []
    s.moved(200)  # somebody died, and is started again
    assert s.tick(259) == []
    assert s.tick(260) == [Stalled("", 60)]


def test_time_in_which_the_head_stood_still_does_not_count() -> None:
    s = Stalls(60, 0)
    s.watch("a/0", 10, 0)
    s.away(100, 100)
    assert s.tick(105) == []
    assert s.tick(110) == [Stalled("a/0", 10)]


def test_a_process_whose_record_differs_is_named_with_the_other() -> None:
    s = Agreement()
    assert s.differs("a/0", {"m.X": "1", "m.Y": "2"}) == ""
    assert s.differs("b/0", {"m.Y": "2", "m.Z": "3"}) == ""
    text = s.differs("c/0", {"m.X": "1", "m.Z": "other", "m.New": "5"})
    assert text.startswith("c/0 has other fields in m.Z than b/0: the code differs")
    assert s.differs("d/0", {"m.New": "6"}) == ""  # a refused process sets nothing
