"""Real nodes over links that lose, repeat and swap messages: nobody above notices."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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

    def enter(self, slot: str, route: wire.Route) -> Any:
        return SimpleNamespace(take=lambda op, frames: self.taken.append(route.port))

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


def route(port: str) -> wire.Route:
    return wire.Route("b/0~1", port, "a/0~1", "")


def send(links: Links, peer: str, port: str, frames: Sequence[Frame] = ()) -> None:
    way = links.way(peer, route(port), 0)
    assert way is not None
    way.send(wire.Cancel(1), frames)


async def turns(num: int = 6) -> None:
    for _ in range(num):
        await asyncio.sleep(0)


async def test_what_is_not_of_this_run_or_not_for_us_is_refused_and_told() -> None:
    network = MemoryNetwork()
    b, owner, endpoint = an_end(network, "b/0~1")
    old, _, _ = an_end(network, "a/0~1", run="run (attempt 0)")
    old.open("b/0~1", endpoint)
    send(old, "b/0~1", "old")
    other, _, _ = an_end(network, "a/0~2")
    other.open("b/0~2", endpoint)
    send(other, "b/0~2", "other")
    await turns()
    assert owner.taken == []
    assert "of run 'run (attempt 0)'" in owner.errors[0]
    assert "that is for 'b/0~2'" in owner.errors[1]
    right, _, _ = an_end(network, "a/0~3")
    right.open("b/0~1", endpoint)
    send(right, "b/0~1", "right")
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
    send(a, "b/0~1", "once")
    await turns()
    for frames in recorded * 3:
        deliver(endpoint, frames)
    assert owner.taken == ["once"]
    owner.closed = a_owner.closed = True


async def test_a_batch_in_the_name_of_another_slot_is_refused() -> None:
    network = MemoryNetwork()
    b, owner, _ = an_end(network, "b/0~1")
    head = wire.Head(wire.PROTOCOL, "run (attempt 1)", "a/0~1", "b/0~1", 0, 1)
    header = Codec().encode_batch(head, [(1, route("x")), (1, wire.Cancel(1))])
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
        send(a, "b/0~1", "x", [b""] * MAX_FRAMES)
    with pytest.raises(TooLarge, match="b/0~1 "):
        send(a, "b/0~1", "x", [memoryview(bytes(2**20))] * 920 + [bytes(2**27)])
    way = a.way("b/0~1", route("x"), 0)
    assert way is not None
    with pytest.raises(TooLarge, match="outside of large arrays"):
        way.send(wire.Fail(1, "", "x" * 2**24))
    owner.closed = True


async def test_a_hole_is_told_at_both_ends() -> None:
    network = MemoryNetwork()
    b, b_owner, b_endpoint = an_end(network, "b/0~1")
    a, a_owner, a_endpoint = an_end(network, "a/0~1")
    a.open("b/0~1", "memory://nowhere")
    for i in range(5):
        send(a, "b/0~1", str(i))
        await turns()
        session = a._links["b/0~1"][0].session
        if i == 0:
            session._keep_bytes = 3 * session.kept_bytes
    b.open("a/0~1", a_endpoint)
    a._transport.connect("b/0~1", b_endpoint)
    a.connection("b/0~1", True)
    await turns(20)
    assert b_owner.taken == ["2", "3", "4"]
    assert b_owner.broken == ["2 batches from a/0~1 were lost for good on the link"]
    assert a_owner.errors == ["2 batches to b/0~1 were lost for good"]
    a_owner.closed = b_owner.closed = True
