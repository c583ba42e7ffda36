"""Attacks on a run that goes on over tcp with keys; each attacker is a process of its own.

`make fuzz` damages messages; here somebody sends well-made ones that he has no right to send. Each
delivers nothing and is told of once, and the run goes on and ends in order.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq
from attack import attack, batch
from real_run import RealRun, goes_on, listening, ready

from realnet.limits import MAX_HEADER_BYTES

NOW = "run (attempt 1)"


class Attack(NamedTuple):
    """`key`: whose, "" for none, "?" for one of nobody. The rest is what it says it is."""

    told: str
    key: str = "worker/0"
    sender: str = "worker/0~1"
    run: str = NOW
    to: str = "sink/0~1"
    actor: str = ""
    at: str = ""
    padding: int = 0


ATTACKS = {
    "no key": Attack("it does not speak as this run does", key=""),
    "wrong key": Attack("its key is none of this run's", key="?"),
    "right key, wrong role": Attack(
        "says it is from helper/0~1: its key is that of worker/0", sender="helper/0~1"
    ),
    "stolen identity": Attack(
        "refused what worker/0~77 sent in the name of @helper/0/0~1",
        *("worker/0", "worker/0~77", NOW, "head/0~0", "@helper/0/0~1", "head/0~0"),
    ),
    "an order": Attack(
        "refused an order to @sink/0/0~1 from worker/0~77: it is not the head",
        *("worker/0", "worker/0~77", NOW, "sink/0~1", "head/0~0", "@sink/0/0~1"),
    ),
    "replay from an older run": Attack("of run 'run (attempt 0)'", run="run (attempt 0)"),
    "an older life": Attack(
        "refused what worker/0~0 sends: it is worker/0~1 that lives now", sender="worker/0~0"
    ),
    "a life that nobody knows": Attack(
        "worker/0~77 has spoken to this process for 10 s, and nobody told it", sender="worker/0~77"
    ),
    "oversize": Attack("bytes of header)", padding=MAX_HEADER_BYTES),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attacker_delivers_nothing_and_is_told_once(
    start: Callable[..., RealRun], topology: Path, tmp_path: Path, name: str
) -> None:
    a = ATTACKS[name]
    run = start(topology, "--set", 'run.transport="tcp"')
    run.until(lambda: ready(run))
    before = run.events()
    message = tmp_path / "message.bin"
    message.write_bytes(batch(a.run, a.sender, a.to, a.actor, a.at) + bytes(a.padding))
    target = a.to.partition("~")[0]
    port = int(listening(run)[target][0].partition(":")[2], 16)
    attacker = attack(
        f"tcp://127.0.0.1:{port}", secret_of(run, target), secret_of(run, a.key), message
    )
    try:
        run.until(lambda: any(a.told in e for e in run.events()), 30)
        goes_on(run)
        goes_on(run)
        assert attacker.poll() is None  # it is there still
    finally:
        attacker.communicate(timeout=20)
    said = [e for e in run.events()[len(before) :] if "squares since" not in e]
    assert len(said) == 1, said
    assert a.told in said[0]
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert "Traceback" not in run.output()
    assert not run.members()


def secret_of(run: RealRun, slot: str) -> bytes:
    """Return the secret of a slot; of nobody for "?", none for ""."""
    if slot == "?":
        return zmq.curve_keypair()[1]
    return (run.folder / "keys" / f"{slot.replace('/', '-')}.secret").read_bytes() if slot else b""
