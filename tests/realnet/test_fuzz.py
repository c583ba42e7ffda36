"""Damaged messages give declared errors only; what once broke something is played again."""

from __future__ import annotations

import asyncio
import random
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import realnet.control
import realnet.roles.messages  # noqa: F401  its records are damaged as well
from realnet import codec as codec_module
from realnet import custody
from realnet.codec import Codec
from realnet.message import Message
from realnet.testing import fuzz
from realnet.testing.examples import example, record_types, sendable

CASES = sorted((Path(__file__).parent / "fuzz_cases").glob("*.case"))


@pytest.mark.parametrize("seed", ["1", "2"])
def test_only_declared_errors_come_out(seed: str, tmp_path: Path) -> None:
    totals = fuzz.fuzz(seed, 6000, tmp_path)
    assert totals.failures == ()
    assert totals.frames == 6000
    assert totals.refused > 2000
    assert totals.taken > 100
    assert totals.more_rss_bytes < 200 * 2**20


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_what_once_broke_something_does_not_any_more(case: Path) -> None:
    assert fuzz.replay(case) == ""


def test_there_are_cases_to_play_again() -> None:
    assert CASES


def test_an_undeclared_error_is_found_cut_down_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "_DAMAGED", (msgspec.ValidationError,))
    totals = fuzz.fuzz("3", 600, tmp_path)
    assert totals.failures
    saved = sorted(tmp_path.glob("messages-*.case"))
    assert saved
    for path in saved:  # one message is enough for this
        assert len(zlib.decompress(path.read_bytes())) < 200_000
    assert all(fuzz.replay(path) for path in saved)
    monkeypatch.undo()
    assert not any(fuzz.replay(path) for path in saved)


def test_an_actor_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = asyncio.run(fuzz.capture())

    async def capture() -> list[fuzz.Frames]:
        return recorded

    def grants(self: Any) -> Any:
        raise KeyError("planted")

    monkeypatch.setattr(fuzz, "capture", capture)
    monkeypatch.setattr(custody.Consumer, "grants", grants)
    assert "planted" in "".join(fuzz.fuzz("4", 3000, tmp_path).failures)


@pytest.mark.parametrize("kind", sendable(record_types()), ids=lambda kind: kind.__name__)
def test_every_record_comes_back_as_it_was(kind: type[Message]) -> None:
    rng, codec = random.Random(kind.__name__), Codec([kind])
    for _ in range(30):
        record = example(kind, rng)
        assert same(codec.copy(record), record)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, msgspec.Raw):
        return bytes(a) == bytes(b)
    if isinstance(a, msgspec.Struct):
        return all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a).__module__ == "torch":
        return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    return bool(a == b)
