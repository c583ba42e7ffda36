"""Real nodes over links that lose, repeat and swap messages: nobody above notices."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from realnet import link, wire
from realnet.codec import MAX_FRAMES, Codec, Frame
from realnet.errors import TooLarge, WireError
from realnet.links import Links
from realnet.message import Message
from realnet.testing import running
from realnet.transport.memory import MemoryNetwork


class Word(Message):
    text: str


class BadNetwork(MemoryNetwork):
    """Loses, repeats and swaps."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(3)
        self.rate = 0.03
        self.faults = 0
        self.held: tuple[str, list[Frame]] | None = None

    def deliver(self, endpoint: str, frames: list[Frame]) -> None:
        chance = self.rng.random()
        if chance < 3 * self.rate:
            self.faults += 1
        if chance < self.rate:
            return
        if chance < 2 * self.rate and self.held is None:
            self.held = endpoint, frames
            return
        super().deliver(endpoint, frames)
        if chance < 3 * self.rate:
            super().deliver(endpoint, frames)
        if self.held is not None:
            held, self.held = self.held, None
            super().deliver(*held)


def topology(folder: Path, *, num: int, workers: int) -> str:
    pipeline = Path(__file__).parent / "pipeline.py"
    shutil.copy(pipeline, folder / "pipeline.py")
    text = pipeline.read_text(encoding="utf-8")
    return (
        text[text.index('TOPOLOGY = """') + 14 :]
        .partition('"""')[0]
        .format(num=num, workers=workers)
    )


async def test_a_network_lives_on_bad_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[BadNetwork] = []

    def bad() -> BadNetwork:
        networks.append(BadNetwork())
        return networks[0]

    monkeypatch.setattr(sys.modules[running.__module__], "MemoryNetwork", bad)
    monkeypatch.setattr(link, "PROBE_S", 0.2)
    monkeypatch.setattr(link, "AGAIN_S", 0.02)
    async with running(topology(tmp_path, num=300, workers=3), tmp_path) as run:
        await run.until(lambda: run.is_up("source/0"))
        sink, source = run.actor("sink/0"), run.actor("source/0")
        await run.until(lambda: len(sink.got) == 299 and source.numbers.leased == 0)
        assert sink.times == 299
        assert networks[0].faults > 20
        assert not any("lost" in e or "refused" in e for e in run.events())


class Owner:
    """Hears what links bring."""

    def __init__(self) -> None:
        self.closed = False
        self.taken: list[str] = []
        self.errors: list[str] = []
        self.broken: list[str] = []

    def take(self, slot: str, packet: wire.Packet, frames: list[Frame]) -> None:
        self.taken.append(packet.port)

    def told(self, error: WireError) -> None:
        self.errors.append(str(error))

    def link_broken(self, slot: str, text: str) -> None:
        self.broken.append(text)


def an_end(network: MemoryNetwork, slot: str, **change: Any) -> tuple[Links, Owner, str]:
    owner, transport = Owner(), network.transport(slot)
    loop = asyncio.get_running_loop()
    run = change.get("run", "run (attempt 1)")
    links = Links(slot, run, Codec([Word]), transport, loop.time, owner)
    transport.listen(links.receive)
    return links, owner, transport.endpoint


def packet(port: str) -> wire.Packet:
    return wire.Packet("b/0~1", port, "a/0~1", "", wire.Cancel(1))


async def turns(num: int = 6) -> None:
    for _ in range(num):
        await asyncio.sleep(0)


async def test_what_is_not_of_this_run_or_not_for_us_is_refused_and_told() -> None:
    network = MemoryNetwork()
    b, owner, endpoint = an_end(network, "b/0~1")
    old, _, _ = an_end(network, "a/0~1", run="run (attempt 0)")
    old.open("b/0~1", endpoint)
    old.add("b/0~1", packet("old"), [], 1)
    other, _, _ = an_end(network, "a/0~2")
    other.open("b/0~2", endpoint)
    other.add("b/0~2", packet("other"), [], 1)
    await turns()
    assert owner.taken == []
    assert "of run 'run (attempt 0)'" in owner.errors[0]
    assert "that is for 'b/0~2'" in owner.errors[1]
    right, _, _ = an_end(network, "a/0~3")
    right.open("b/0~1", endpoint)
    right.add("b/0~1", packet("right"), [], 1)
    await turns()
    assert owner.taken == ["right"]
    for links in (b, old, other, right):
        links._owner.closed = True


async def test_a_recorded_batch_played_again_is_dropped() -> None:
    network = MemoryNetwork()
    _, owner, endpoint = an_end(network, "b/0~1")
    recorded: list[list[Frame]] = []
    deliver = network.deliver
    network.deliver = lambda to, frames: (recorded.append(frames), deliver(to, frames))[1]  # type: ignore[method-assign,func-returns-value]
    a, a_owner, _ = an_end(network, "a/0~1")
    a.open("b/0~1", endpoint)
    a.add("b/0~1", packet("once"), [], 1)
    await turns()
    for frames in recorded * 3:
        deliver(endpoint, frames)
    assert owner.taken == ["once"]
    owner.closed = a_owner.closed = True


async def test_a_batch_in_the_name_of_another_slot_is_refused() -> None:
    network = MemoryNetwork()
    b, owner, _ = an_end(network, "b/0~1")
    header = Codec().encode_batch(
        wire.Batch(wire.PROTOCOL, "run (attempt 1)", "a/0~1", 1, [packet("x")], "b/0~1")
    )
    b.receive([header], "c/0")
    b.receive([header], "")
    assert owner.taken == []
    assert "says it is from a/0~1: its key is that of c/0" in owner.errors[0]
    assert "its key is that of nobody" in owner.errors[1]
    b.receive([header], "a/0")
    assert owner.taken == ["x"]
    owner.closed = True


async def test_too_large_for_a_link_fails_at_the_sender() -> None:
    network = MemoryNetwork()
    a, owner, _ = an_end(network, "a/0~1")
    a.open("b/0~1", "memory://b")
    with pytest.raises(TooLarge, match=r"b/0~1 .*frames"):
        a.add("b/0~1", packet("x"), [b""] * MAX_FRAMES, 1)
    with pytest.raises(TooLarge, match="b/0~1 "):
        a.add("b/0~1", packet("x"), [], 2**30)
    owner.closed = True


async def test_a_hole_is_told_at_both_ends() -> None:
    network = MemoryNetwork()
    b, b_owner, b_endpoint = an_end(network, "b/0~1")
    a, a_owner, a_endpoint = an_end(network, "a/0~1")
    a.open("b/0~1", "memory://nowhere")
    a._links["b/0~1"].session._keep_bytes = 3
    for i in range(5):
        a.add("b/0~1", packet(str(i)), [], 1)
        await turns()
    b.open("a/0~1", a_endpoint)
    a._transport.connect("b/0~1", b_endpoint)
    a.connection("b/0~1", True)
    await turns(20)
    assert b_owner.taken == ["2", "3", "4"]
    assert b_owner.broken == ["2 batches from a/0~1 were lost for good on the link"]
    assert a_owner.errors == ["2 batches to b/0~1 were lost for good"]
    a_owner.closed = b_owner.closed = True
