"""The record of a run: whole lines, busy time, overlaps, all of it bounded."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from realnet.observe.record import MAX_SPANS, Busy, Record, both, read_rows, total_s, union


def test_rows_are_lines_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    record = Record(tmp_path, 100.0, 2)
    seen: list[object] = []
    record.watchers.append(lambda kind, row: seen.append((kind, row["text"])))
    record.write("a/0", "event", 101.5, {"text": "hello"})
    record.write("a/0", "metrics", 102.0, {"text": "", "x": 1.0})
    record.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"text": "to')
    rows = read_rows(tmp_path / "events.jsonl")
    assert rows == [{"time_s": 1.5, "attempt": 2, "actor": "a/0", "text": "hello"}]
    assert seen == [("event", "hello"), ("metrics", "")]
    assert read_rows(tmp_path / "nothing.jsonl") == []


def test_a_torn_line_does_not_swallow_the_first_of_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"text": "to')
    record = Record(tmp_path, 0.0, 2)
    record.write("a/0", "event", 1.0, {"text": "hello"})
    record.close()
    assert [row["text"] for row in read_rows(tmp_path / "events.jsonl")] == ["hello"]


def test_on_a_full_disk_rows_wait_and_the_run_goes_on(tmp_path: Path) -> None:
    record = Record(tmp_path, 0.0, 1)
    seen: list[str] = []
    record.watchers.append(lambda kind, row: seen.append(row["text"]))
    lines = record._files["event"]
    real, room = lines._file, [5]

    class Full:
        def write(self, data: bytes) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            cut, room[0] = data[: room[0]], 0
            return real.write(cut)

    lines._file = Full()  # type: ignore[assignment]
    record.write("a/0", "event", 1.0, {"text": "one"})
    record.write("a/0", "event", 2.0, {"text": "two"})
    assert "No space left on device" in seen[0]
    assert seen[1:] == ["one", "two"]
    lines._file = real
    record.write("a/0", "event", 3.0, {"text": "three"})
    record.close()
    rows = read_rows(tmp_path / "events.jsonl")
    assert [row["text"] for row in rows] == ["one", "two", "three"]


def test_overlaps() -> None:
    left = union([(0, 2), (1, 3), (5, 6)])
    assert left == [(0, 3), (5, 6)]
    assert both(left, [(2, 5.5), (5.8, 9)]) == [(2, 3), (5, 5.5), (5.8, 6)]
    assert total_s(left) == 4


def test_busy_time_of_a_role_is_the_union_of_its_instances() -> None:
    busy = Busy()
    busy.add("g/0", [(0.0, 1.0, "generate"), (1.001, 2.0, "generate"), (3.0, 4.0, "swap")])
    busy.add("g/1", [(1.5, 3.5, "generate")])
    assert busy.spans["g/0"] == [(0.0, 2.0), (3.0, 4.0)]
    assert busy.role("g") == [(0.0, 4.0)]
    assert busy.role("g", since_s=1.75) == [(1.75, 4.0)]
    assert busy.seconds["g/0"] == {"generate": pytest.approx(1.999), "swap": 1.0}


def test_busy_spans_of_a_long_run_stay_bounded() -> None:
    busy = Busy()
    count = 5 * MAX_SPANS
    for i in range(0, count, 100):
        busy.add("a/0", [(0.01 * k, 0.01 * k + 0.005, "x") for k in range(i, i + 100)])
    assert len(busy.spans["a/0"]) <= MAX_SPANS
    assert busy.spans["a/0"][0][0] == 0.0
    assert busy.spans["a/0"][-1][1] == pytest.approx(0.01 * (count - 1) + 0.005)
    assert busy.seconds["a/0"]["x"] == pytest.approx(0.005 * count)
