"""Who speaks before anybody told of it: early, of an older life, or of none."""

from __future__ import annotations

from realnet.strangers import MAX_STRANGERS, STRANGE_S, Strangers


def test_one_that_is_told_of_in_time_is_no_stranger() -> None:
    strangers = Strangers()
    assert strangers.spoke("a/0~2", ["b/0~1", "a/0~1"], 5.0) == ""
    assert strangers.spoke("a/0~2", [], 6.0) == ""
    assert strangers.due_s == 5.0 + STRANGE_S
    strangers.met("a/0~2")
    assert strangers.due_s is None
    assert strangers.overdue(1e9) == []


def test_one_that_nobody_tells_of_is_told_once() -> None:
    strangers = Strangers()
    strangers.spoke("a/0~2", [], 5.0)
    assert strangers.overdue(4.9 + STRANGE_S) == []
    (text,) = strangers.overdue(5.0 + STRANGE_S)
    assert text.startswith("a/0~2 has spoken to this process for 10 s, and nobody told it")
    assert strangers.spoke("a/0~2", [], 20.0) == ""
    assert strangers.due_s is None


def test_an_older_life_is_refused_at_once() -> None:
    strangers = Strangers()
    text = strangers.spoke("a/0~9", ["a/0~10"], 0.0)
    assert text == "refused what a/0~9 sends: it is a/0~10 that lives now"
    assert strangers.due_s is None


def test_strangers_are_bounded() -> None:
    strangers = Strangers()
    for number in range(MAX_STRANGERS):
        assert strangers.spoke(f"a/0~{number}", [], 0.0) == ""
    assert "others are unknown already" in strangers.spoke("a/0~x", [], 0.0)
    assert len(strangers.overdue(STRANGE_S)) == MAX_STRANGERS
    assert "others are unknown already" in strangers.spoke("a/0~x", [], 1e6)
