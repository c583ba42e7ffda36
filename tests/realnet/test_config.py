"""Tables to records: units, nested tables, every mistake told at once."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from realnet import Bytes, Config, ConfigError, Seconds, Steps, doc
from realnet.config import read_table, to_plain


class Inner(Config):
    lr: float = 1.0


class Table(Config):
    num: Annotated[int, doc("answers a ticket", ge=1)]
    wait: Seconds = Seconds(3)
    room: Bytes = Bytes(0)
    every: Steps = Steps(10)
    inner: Inner = Inner()
    maybe: Seconds | None = None
    names: dict[str, float] = {}

    def __post_init__(self) -> None:
        if self.num == 13:
            raise ValueError("num and luck do not go together")


class Worded(Config):
    kind: Annotated[Literal["mask", "clamp"], doc("a word")] | None = "mask"


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("2 min", 120), ("1.5h", 5400), (7, 7)]
)
def test_seconds(text: object, seconds: float) -> None:
    assert read_table(Table, {"num": 1, "wait": text}, "t").wait == seconds


def test_values_and_back() -> None:
    raw = {"num": 2, "room": "2GiB", "every": "20 steps", "inner": {"lr": 2}, "maybe": "3h"}
    table = read_table(Table, raw, "t")
    assert (table.room, table.every, table.inner.lr, table.maybe) == (2**31, 20, 2.0, 10800)
    assert read_table(Table, to_plain(table), "t") == table


def test_every_mistake_is_told_with_its_key() -> None:
    raw = {"wait": "10parsec", "inner": {"lrr": 2}, "nmu": 4, "names": {"a": "b"}}
    with pytest.raises(ConfigError) as caught:
        read_table(Table, raw, "a.toml: [roles.x]")
    text = str(caught.value)
    assert '[roles.x].nmu: no such key. Did you mean "num"?' in text
    assert "[roles.x].wait = '10parsec'" in text
    assert '[roles.x].inner.lrr: no such key. Did you mean "lr"?' in text
    assert "[roles.x].names" in text
    assert "num is missing. It is: answers a ticket" in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize("value", [0, "3", 1.5, True])
def test_limits_and_types(value: object) -> None:
    with pytest.raises(ConfigError, match=r"\.num = "):
        read_table(Table, {"num": value}, "t: [x]")


@pytest.mark.parametrize("kind", ["clmap", 3])
def test_a_word_that_is_none_is_told_with_the_nearest(kind: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read_table(Worded, {"kind": kind}, "t: [x]")
    if kind == "clmap":
        assert "t: [x].kind = 'clmap': no such value. Did you mean \"clamp\"?" in str(caught.value)
        assert "It may be: clamp, mask" in str(caught.value)


@pytest.mark.parametrize("key", ["wait", "room", "every"])
def test_no_quantity_is_negative(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\.{key} = -1"):
        read_table(Table, {"num": 1, key: -1}, "t: [x]")


def test_rules_over_several_keys() -> None:
    with pytest.raises(ConfigError, match=r"t: \[x\]: num and luck"):
        read_table(Table, {"num": 13}, "t: [x]")


class Budget(Config):
    limit: Seconds = Seconds(0)


class Either(Config):
    progress: Seconds | Budget = Seconds(0)


def test_a_unit_or_a_table() -> None:
    assert read_table(Either, {"progress": "2min"}, "t").progress == 120
    assert read_table(Either, {"progress": {"limit": "1s"}}, "t").progress == Budget(
        limit=Seconds(1)
    )
    with pytest.raises(ConfigError, match='Did you mean "10s"'):
        read_table(Either, {"progress": "10sec"}, "t")
