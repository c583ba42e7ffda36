"""Weights between real processes on two made-up hosts: streams, relays, broadcasts, and deaths."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from real_run import RealRun
from weight_roles import publish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROLES = Path(__file__).parent.parent / "weight_roles.py"
THERE = 'env = { REALNET_HOST = "there" }'
TOPOLOGY = f"""
title = "weights"
[policy]
model = "new:llama"
[roles.writer]
kind = "{ROLES}:Writer"
WRITER
[roles.parameter_server]
SERVER
[roles.reader]
kind = "{ROLES}:Reader"
"""


def said(run: RealRun, text: str) -> int:
    return sum(text in event for event in run.events())


def started(
    start: Callable[..., RealRun], folder: Path, text: str, *, writer: str = "", server: str = ""
) -> RealRun:
    path = folder / "weights.toml"
    path.write_text(TOPOLOGY.replace("WRITER", writer).replace("SERVER", server) + text)
    run = start(path)
    run.until(lambda: bool(run.members()))
    return run


def have(run: RealRun, number: int, *readers: str) -> None:
    run.until(lambda: all(said(run, f"{reader} has {number} by") for reader in readers))


def test_one_copy_crosses_to_a_host_with_a_relay_and_deaths_hold_nobody_up(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    """The writer and the readers are on another host than the parameter server."""
    run = started(
        start,
        tmp_path,
        f"count = 2\n{THERE}\n[roles.relay]\n{THERE}\n",
        writer=THERE,
    )
    readers = ("reader/0", "reader/1")
    publish(run.folder, 1)
    have(run, 0, *readers)
    run.until(lambda: said(run, "relay/0 keeps a copy of the weights for there") == 1)
    publish(run.folder, 2)
    have(run, 1, *readers)
    assert [said(run, f"{reader} has 1 by shm") for reader in readers] == [1, 1]

    def fetched() -> list[int]:  # rows come a moment after what they tell of
        return [r["version"] for r in run.rows() if r["actor"] == "relay/0" and "fetch_s" in r]

    run.until(lambda: 1 in fetched())
    assert fetched().count(1) == 1
    run.kill("relay/0")
    publish(run.folder, 3)
    have(run, 2, *readers)
    run.until(lambda: said(run, "relay/0 keeps a copy of the weights for there") == 2)
    run.kill("parameter_server/0")
    publish(run.folder, 4)
    have(run, 3, *readers)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130


def test_a_broadcast_to_those_who_are_there_and_a_stream_for_those_who_come_late(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    run = started(
        start,
        tmp_path,
        "count = 2\n",
        server='links = ["gloo", "stream"]\npatience = "10s"\ntimeout = "30s"',
    )
    readers = ("reader/0", "reader/1")
    publish(run.folder, 1)
    have(run, 0, *readers)
    assert [said(run, f"{reader} has 0 by stream") for reader in readers] == [1, 1]
    publish(run.folder, 2)
    have(run, 1, *readers)
    assert [said(run, f"{reader} has 1 by gloo") for reader in readers] == [1, 1]
    run.kill("reader/1")
    run.until(lambda: said(run, "reader/1 has 1 by stream") == 1)
    publish(run.folder, 3)
    have(run, 2, *readers)
    assert [said(run, f"{reader} has 2 by gloo") for reader in readers] == [1, 1]

    def epochs() -> list[int]:  # rows come a moment after what they tell of
        return [r["epoch"] for r in run.rows() if "epoch" in r]

    run.until(lambda: len(epochs()) == 2)
    assert epochs() == [1, 2]
    run.kill("reader/0", signal.SIGSTOP)  # frozen: the other one is not held up for long
    publish(run.folder, 4)
    have(run, 3, "reader/1")
    run.until(lambda: said(run, "by gloo without reader/0: not ready in time") == 1)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130


def strike(run: RealRun, whom: str, kind: signal.Signals) -> Path:
    """Have a process get a signal in the middle of the next broadcast."""
    flag = run.folder / f"strike.{whom}"
    part = flag.with_suffix(".part")
    part.write_text(kind.name)
    part.replace(flag)
    return flag


def test_who_is_struck_in_mid_broadcast_costs_nobody_a_version(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    """A member frozen amid the buckets, then the sender killed there."""
    pytest.importorskip("torch")
    run = started(
        start,
        tmp_path,
        'count = 3\n[run]\nhung = "5min"\n',  # who stands still here is not killed for it
        server=f'kind = "{ROLES}:Server"\nlinks = ["gloo", "stream"]\n'
        'patience = "10s"\ntimeout = "8s"',  # of a bucket, on a machine that others use as well
    )
    readers = ("reader/0", "reader/1", "reader/2")
    publish(run.folder, 1)
    have(run, 0, *readers)
    publish(run.folder, 2)
    have(run, 1, *readers)
    assert [said(run, f"{reader} has 1 by gloo") for reader in readers] == [1, 1, 1]
    flag = strike(run, "reader-2", signal.SIGSTOP)
    publish(run.folder, 3)
    have(run, 2, "reader/0", "reader/1")
    assert not flag.exists(), "it was in the broadcast"
    run.until(lambda: said(run, "by gloo failed (epoch 1") == 1)
    (told,) = [e for e in run.events() if "by gloo failed (epoch 1" in e]
    assert "reader/2" in told.partition("no word from ")[2]
    publish(run.folder, 4)
    have(run, 3, "reader/0", "reader/1")
    assert not said(run, "reader/2 has 2"), "it still stands"
    run.kill("reader/2", signal.SIGCONT)
    have(run, 3, "reader/2")
    publish(run.folder, 5)
    have(run, 4, *readers)
    publish(run.folder, 6)
    have(run, 5, *readers)
    assert [said(run, f"{reader} has 5 by gloo") for reader in readers] == [1, 1, 1]
    flag = strike(run, "sender", signal.SIGKILL)
    publish(run.folder, 7)
    have(run, 6, *readers)
    assert not flag.exists()
    assert said(run, "parameter_server/0 died: killed by SIGKILL") == 1
    publish(run.folder, 8)
    have(run, 7, *readers)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
