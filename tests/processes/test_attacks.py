"""Attacks on a run that goes on over tcp with keys; each attacker is a process of its own.

`make fuzz` damages messages; here somebody sends well-made ones that he has no right to send. Each
delivers nothing and is told of once, and the run, which is one for all of them, goes on and ends in
order.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import small_net
import zmq
from attack import attack, batch
from real_run import RealRun, goes_on, listening, ready

from realnet.limits import MAX_HEADER_BYTES

NOW = "run (attempt 1)"
Attacker = subprocess.Popen[bytes]


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


LEFT = "was cut while its process lives"  # of an attacker with a right key, who was ended
SLOW = "a life that nobody knows"  # it is given its 10 s, while the others are at it
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
        "refused an order to @sink/0/0~1 from worker/0~78: it is not the head",
        *("worker/0", "worker/0~78", NOW, "sink/0~1", "head/0~0", "@sink/0/0~1"),
    ),
    "replay from an older run": Attack("of run 'run (attempt 0)'", run="run (attempt 0)"),
    "an older life": Attack(
        "refused what worker/0~0 sends: it is worker/0~1 that lives now", sender="worker/0~0"
    ),
    "oversize": Attack("bytes of header)", padding=MAX_HEADER_BYTES),
    SLOW: Attack(
        "worker/0~79 has spoken to this process for 10 s, and nobody told it", sender="worker/0~79"
    ),
}


class Besieged:
    """A run, and how to attack it."""

    def __init__(self, folder: Path) -> None:
        text = small_net.topology(folder, num=100_000_000, per_s=1000)
        (folder / "net.toml").write_text(text)
        self.run = RealRun(folder / "net.toml", folder, "--set", 'run.transport="tcp"')

    def begin(self, name: str) -> Attacker:
        """Start an attack; it goes on until it is ended."""
        a = ATTACKS[name]
        message = self.run.folder.parent / f"message-{len(name)}-{name[:5]}.bin"
        message.write_bytes(batch(a.run, a.sender, a.to, a.actor, a.at) + bytes(a.padding))
        target = a.to.partition("~")[0]
        port = int(listening(self.run)[target][0].partition(":")[2], 16)
        there = f"tcp://127.0.0.1:{port}"
        return attack(there, self.secret_of(target), self.secret_of(a.key), message)

    def secret_of(self, slot: str) -> bytes:
        """Return the secret of a slot; of nobody for "?", none for ""."""
        if slot == "?":
            return zmq.curve_keypair()[1]
        file = self.run.folder / "keys" / f"{slot.replace('/', '-')}.secret"
        return file.read_bytes() if slot else b""

    def told(self, name: str, event: str) -> bool:
        return ATTACKS[name].told in event

    def is_of_others(self, event: str, name: str) -> bool:
        """Tell whether an event is of the work that goes on, or of another attack."""
        if "squares" in event or LEFT in event:
            return True
        return any(self.told(other, event) for other in ATTACKS if other != name)


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Besieged, Attacker]]:
    """One run for all attacks, the slow one begun; at the end it is stopped as by Ctrl-C."""
    made = Besieged(tmp_path_factory.mktemp("besieged"))
    run, slow = made.run, None
    try:
        run.until(lambda: ready(run))
        slow = made.begin(SLOW)
        yield made, slow
        run.process.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
        assert "Traceback" not in run.output()
        assert not run.members()
    finally:
        if slow is not None:
            slow.communicate(timeout=20)
        run.end()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attacker_delivers_nothing_and_is_told_once(
    besieged: tuple[Besieged, Attacker], name: str
) -> None:
    made, slow = besieged
    run = made.run
    before = run.events() if name != SLOW else []
    attacker: Attacker = made.begin(name) if name != SLOW else slow
    try:
        run.until(lambda: any(made.told(name, e) for e in run.events()[len(before) :]), 30)
        goes_on(run)
        goes_on(run)
        assert attacker.poll() is None  # it is there still
    finally:
        if name != SLOW:
            attacker.communicate(timeout=20)
    said = [e for e in run.events()[len(before) :] if not made.is_of_others(e, name)]
    assert len(said) == 1, said
    assert made.told(name, said[0])


def test_a_run_that_was_attacked_lost_nobody(besieged: tuple[Besieged, Attacker]) -> None:
    run = besieged[0].run
    assert not any("died" in e or "started again" in e for e in run.events())
