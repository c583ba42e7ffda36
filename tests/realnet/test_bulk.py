"""Bulk over tcp with keys, signed and not encrypted: what is forged or repeated stays out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import zmq
from link_ends import RUN, End, Proxy, ends, of_a_cut, until

from realnet import wire
from realnet.codec import Codec, Frame
from realnet.errors import WireError
from realnet.transport import seals as seals_module
from realnet.transport.opening import open_transport
from realnet.transport.seals import GMAC, HMAC_SHA256, WINDOW, Seals, codes
from realnet.transport.security import Keys, make_keys, read_keys
from realnet.transport.zmq import ZmqTransport, tcp_endpoint
from realnet.ways import BULK, NUM_LANES

SIZE = 300_000
FRAMES: list[Frame] = [b"head", b"one" * 1000, b"", b"two" * 1000]
KINDS = [
    HMAC_SHA256,
    pytest.param(GMAC, marks=pytest.mark.skipif(GMAC not in codes(), reason="needs cryptography")),
]


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    make_keys(tmp_path / "keys", ["a/0", "b/0"])
    return lambda slot: read_keys(tmp_path / "keys", slot)


# ------------------------------------------------------------ signatures


def only(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    code = codes()[kind]
    monkeypatch.setattr(seals_module, "codes", lambda: {kind: code})


@pytest.fixture(params=KINDS)
def sealed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Seals, Seals]:
    only(monkeypatch, request.param)
    a, b = Seals(), Seals()
    assert a.accept("b", b.issue("a"))
    return a, b


def refused(b: Seals, frames: Sequence[Frame]) -> str:
    with pytest.raises(WireError) as caught:
        b.check("a", list(frames))
    return str(caught.value)


def test_what_was_sent_comes_out_once(sealed: tuple[Seals, Seals]) -> None:
    a, b = sealed
    for _ in range(3):
        message = [*FRAMES, a.sign("b", FRAMES)]
        got = list(message)
        assert b.check("a", got)
        assert got == FRAMES
        assert "was here before" in refused(b, message)


def test_every_change_is_seen(sealed: tuple[Seals, Seals]) -> None:
    a, b = sealed
    sign = a.sign("b", FRAMES)
    head, one, none, two = FRAMES
    other = [b"head", b"six" * 1000, b"", b"ten" * 1000]
    its = a.sign("b", other)
    changed: list[list[Frame]] = [
        [b"heaD", one, none, two],
        [head, one, two],
        [head, one, two, none],
        [head, none, one, two],
        [head, bytes(one) + b"t", none, bytes(two)[1:]],
        [bytes(head) + bytes(one)[:1], bytes(one)[1:], none, two],
        [head, one, none, other[3]],
        [],
    ]
    for frames in changed:
        assert "signature is wrong" in refused(b, [*frames, sign])
    for at in range(len(sign)):  # kind, count and code
        damaged = bytearray(sign)
        damaged[at] ^= 1
        refused(b, [*FRAMES, bytes(damaged)])
    assert "signature is wrong" in refused(b, [*FRAMES, its])
    for short in (b"", sign[:8], sign[:9], sign[:-1], sign + b"x"):
        assert "not signed" in refused(b, [*FRAMES, short])
    assert b.check("a", [*FRAMES, sign])
    assert b.check("a", [*other, its])


def test_a_signature_is_for_one_peer_and_one_life(sealed: tuple[Seals, Seals]) -> None:
    a, b = sealed
    c, again = Seals(), Seals()
    assert a.accept("c", c.issue("a"))
    again.issue("a")
    sign = a.sign("b", FRAMES)
    for other in (c, again):
        assert "signature is wrong" in refused(other, [*FRAMES, sign])
    b.forget("a")
    assert not b.check("a", [*FRAMES, sign])  # late words of the dead are nobody's fault
    b.issue("a")
    assert "signature is wrong" in refused(b, [*FRAMES, sign])


def test_overtaken_messages_come_in_once_and_very_old_ones_do_not(
    sealed: tuple[Seals, Seals],
) -> None:
    a, b = sealed
    made = [[*FRAMES, a.sign("b", FRAMES)] for _ in range(WINDOW + 2)]
    for at in (2, 1, 5, 3, WINDOW + 1, 2 * WINDOW // 3):
        assert b.check("a", list(made[at]))
        assert "was here before" in refused(b, made[at])
    assert "was here before" in refused(b, made[0])
    assert "was here before" in refused(b, made[1])
    assert b.check("a", list(made[6]))


def test_a_key_that_comes_twice_does_not_begin_again(sealed: tuple[Seals, Seals]) -> None:
    a, b = sealed
    first = a.sign("b", FRAMES)
    assert b.issue("a") == b.issue("a")
    assert not a.accept("b", b.issue("a"))
    assert not a.accept("b", Seals().issue("a"))
    assert a.sign("b", FRAMES)[:9] != first[:9]


@pytest.mark.parametrize("offer", [b"", b"x" * 48, b"\0" * 49, b"\x80" + b"x" * 48, b"\1" * 50])
def test_a_key_that_cannot_be_used_is_refused(offer: bytes) -> None:
    a = Seals()
    with pytest.raises(WireError, match="cannot be used here"):
        a.accept("b", offer)
    assert not a.ready("b")


@pytest.mark.skipif(GMAC not in codes(), reason="needs cryptography")
@pytest.mark.parametrize("poor", ["sender", "receiver"])
def test_ends_sign_with_what_both_have(monkeypatch: pytest.MonkeyPatch, poor: str) -> None:
    all_codes = codes()
    a, b = Seals(), Seals()
    with monkeypatch.context() as patch:
        if poor == "receiver":
            only(patch, HMAC_SHA256)
        offer = b.issue("a")
    with monkeypatch.context() as patch:
        if poor == "sender":
            only(patch, HMAC_SHA256)
        a.accept("b", offer)
    sign = a.sign("b", FRAMES)
    assert sign[0] == HMAC_SHA256
    assert b.check("a", [*FRAMES, sign])
    assert all_codes is codes()


def test_who_may_come_to_the_door() -> None:
    a, b = Seals(), Seals()
    a.accept("b", b.issue("a"))
    name, password = a.credentials("b")
    assert b.admit(name, password) == "a"
    assert b.admit(name, password[:-1] + b"g") is None
    assert b.admit(name, b"") is None
    assert b.admit(b"a", password) is None
    b.forget("a")
    assert b.admit(name, password) is None


# ------------------------------------------------------------ over sockets


class BulkEnd(End):
    """Says and takes numbers, each with a large frame, in bulk."""

    def bulk(self, peer: str, number: int) -> None:
        route = wire.Route(peer, "p", self.slot, "bulk")
        way = self.links.way(peer, route, BULK)
        assert way is not None
        body = wire.Body("Big", msgspec.Raw(msgspec.msgpack.encode(number)), 1)
        way.send(wire.Tell(body), [bytes([number % 251]) * SIZE])

    def take(self, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        if isinstance(op, wire.Cancel):
            super().take(op, frames)
            return
        assert isinstance(op, wire.Tell)
        number = msgspec.msgpack.decode(op.body.raw)
        assert bytes(frames[0]) == bytes([number % 251]) * SIZE
        self.got.append(number)


def an_end(slot: str, keys: Callable[[str], Keys], *, sign: bool = True) -> BulkEnd:
    transport = ZmqTransport(tcp_endpoint("127.0.0.1"), keys(slot[:3]), sign_bulk=sign)
    return BulkEnd(slot, transport)


def pair(keys: Callable[[str], Keys], *, sign: bool = True) -> tuple[BulkEnd, BulkEnd]:
    a, b = an_end("a/0~1", keys, sign=sign), an_end("b/0~1", keys, sign=sign)
    a.links.open(b.slot, b.transport.endpoint)
    b.links.open(a.slot, a.transport.endpoint)
    return a, b


def bulk_port(end: End) -> str:
    return end.transport.endpoint.split(",")[BULK]


@pytest.mark.parametrize("sign", [False, True])
async def test_both_settings_carry_bulk(keys: Callable[[str], Keys], sign: bool) -> None:
    a, b = pair(keys, sign=sign)
    async with ends(a, b):
        for i in range(100):
            a.bulk(b.slot, i)
            b.bulk(a.slot, i)
            await asyncio.sleep(0)
        await until(lambda: len(a.got) == len(b.got) == 100)
        assert a.got == b.got == list(range(100))
        assert a.errors == b.errors == []
        inboxes = [a.transport._inboxes[n].socket for n in range(NUM_LANES)]
        outs = [a.transport._peers[b.slot].outs[n][0] for n in (0, BULK)]
        open_one = zmq.PLAIN if sign else zmq.CURVE
        assert [s.get(zmq.MECHANISM) for s in inboxes] == [zmq.CURVE, zmq.CURVE, open_one]
        assert [s.get(zmq.MECHANISM) for s in outs] == [zmq.CURVE, open_one]


async def test_nothing_is_sent_in_bulk_before_the_key_has_come(
    keys: Callable[[str], Keys],
) -> None:
    a, b = an_end("a/0~1", keys), an_end("b/0~1", keys)
    async with ends(a, b):
        a.links.open(b.slot, b.transport.endpoint)
        for i in range(5):
            a.bulk(b.slot, i)
            a.say(b.slot, i)
        await until(lambda: len(b.got) == 5)  # what is not in bulk does not wait
        assert list(a.transport._peers[b.slot].outs) == [0]
        b.got.clear()
        b.links.open(a.slot, a.transport.endpoint)
        await until(lambda: len(b.got) == 5)
        assert b.got == list(range(5))
        assert a.errors == b.errors == []


async def test_a_new_incarnation_has_keys_of_its_own(keys: Callable[[str], Keys]) -> None:
    a, b = pair(keys)
    async with ends(b):
        async with ends(a):
            a.bulk(b.slot, 1)
            await until(lambda: b.got == [1])
        b.links.close(a.slot)
        again = an_end("a/0~2", keys)
        async with ends(again):
            b.links.open(again.slot, again.transport.endpoint)
            again.links.open(b.slot, b.transport.endpoint)
            again.bulk(b.slot, 2)
            b.bulk(again.slot, 3)
            await until(lambda: b.got == [1, 2] and again.got == [3])
            assert again.errors == []


@pytest.fixture
def attacker() -> Callable[[], zmq.Socket[bytes]]:
    context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make() -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.PUSH))
        made[-1].set(zmq.LINGER, 0)
        made[-1].set(zmq.RECONNECT_IVL, 10)
        return made[-1]

    yield make
    for socket in made:
        socket.close(linger=0)
    context.term()


async def attack(
    a: BulkEnd, b: BulkEnd, attacker: zmq.Socket[bytes], message: Sequence[Frame], told: str
) -> None:
    """Let an attacker send beside a good peer; see it told and nothing of it delivered."""
    attacker.connect(f"tcp://127.0.0.1:{bulk_port(b)}")
    before = len(b.got)
    for i in range(50):
        a.bulk(b.slot, before + i)
        with contextlib.suppress(zmq.Again):
            attacker.send_multipart(message, zmq.DONTWAIT)
        await asyncio.sleep(0.002)
    await until(lambda: any(told in e for e in b.errors))
    await until(lambda: len(b.got) == before + 50)
    await asyncio.sleep(0.05)  # it goes on trying
    assert b.got == list(range(before + 50))
    assert all(told in e for e in b.errors)
    assert a.errors == []


def forged(number: int = 1, run: str = RUN) -> list[Frame]:
    head = wire.Head(wire.PROTOCOL, run, "a/0~1", "b/0~1", BULK, number)
    ops = [(1, wire.Route("b/0~1", "p", "a/0~1", "")), (1, wire.Cancel(666))]
    return [Codec().encode_batch(head, ops)]


@pytest.mark.parametrize("how", ["open", "curve", "password", "name"])
async def test_strangers_do_not_come_in(
    keys: Callable[[str], Keys], attacker: Callable[[], zmq.Socket[bytes]], how: str
) -> None:
    a, b = pair(keys)
    async with ends(a, b):
        await until(lambda: a.transport.seals.ready(b.slot))
        name, password = a.transport.seals.credentials(b.slot)
        told, stranger = "given no key", attacker()
        if how in ("password", "name"):
            stranger.set(zmq.PLAIN_USERNAME, name if how == "password" else b"a/0~1")
            stranger.set(zmq.PLAIN_PASSWORD, b"guess" if how == "password" else password)
        else:
            told = "does not speak as this run does"
        if how == "curve":
            stranger.set(zmq.CURVE_SERVERKEY, keys("b/0").public["b/0"])
            stranger.set(zmq.CURVE_SECRETKEY, keys("a/0").secret)
            stranger.set(zmq.CURVE_PUBLICKEY, keys("a/0").public["a/0"])
        await attack(a, b, stranger, forged(), told)


def listen_in(a: BulkEnd, monkeypatch: pytest.MonkeyPatch) -> list[list[Frame]]:
    """Return what will be sent in bulk, as whoever reads along sees it."""
    heard: list[list[Frame]] = []
    sign = a.transport.seals.sign

    def signed(peer: str, frames: Sequence[Frame]) -> bytes:
        last = sign(peer, frames)
        heard.append([*map(bytes, frames), last])
        return last

    monkeypatch.setattr(a.transport.seals, "sign", signed)
    return heard


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("unsigned", "is not signed"),
        ("made up", "signature is wrong"),
        ("again", "was here before"),
        ("spliced", "signature is wrong"),
        ("other way", "signature is wrong"),
        ("older attempt", "signature is wrong"),
    ],
)
async def test_who_reads_along_adds_nothing(
    keys: Callable[[str], Keys],
    attacker: Callable[[], zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    told: str,
) -> None:
    old_a, old_b = pair(keys)
    a, b = pair(keys)
    async with ends(a, b):
        async with ends(old_a, old_b):
            old = listen_in(old_a, monkeypatch)
            old_a.bulk(old_b.slot, 0)
            await until(lambda: old_b.got == [0])
        heard, back = listen_in(a, monkeypatch), listen_in(b, monkeypatch)
        for i in range(3):
            a.bulk(b.slot, i)
            b.bulk(a.slot, i)
            await until(lambda i=i: len(a.got) == len(b.got) == i + 1)
        reader = attacker()
        name, password = a.transport.seals.credentials(b.slot)
        reader.set(zmq.PLAIN_USERNAME, name)
        reader.set(zmq.PLAIN_PASSWORD, password)
        sent = {bytes(m[1])[0]: m for m in heard if len(m) == 3}  # some went twice
        first, second = sent[0], sent[1]
        head, _, last = first
        message = {
            "unsigned": forged(len(heard) + 1),
            "made up": [*forged(len(heard) + 1), last[:8] + b"\xff" + last[9:]],
            "again": first,
            "spliced": [head, second[1], last[:8] + b"\xff" + last[9:]],
            "other way": [*back[0][:-1], back[0][-1][:8] + b"\xff" + back[0][-1][9:]],
            "older attempt": [*old[-1][:-1], old[-1][-1][:8] + b"\xff" + old[-1][-1][9:]],
        }[how]
        await attack(a, b, reader, message, told)


class Changing(Proxy):
    """Changes one byte of what passes, when told to."""

    change = False

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if self.change and len(data) == 4096 and len(set(data)) == 1:
                    self.change = False
                    data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def through(proxy_of: type[Proxy], end: End) -> tuple[Proxy, str]:
    """Return an endpoint that reaches the bulk lane through a proxy."""
    proxy = proxy_of(f"tcp://127.0.0.1:{bulk_port(end)}")
    port = (await proxy.start()).rpartition(":")[2]
    return proxy, ",".join([*end.transport.endpoint.split(",")[:BULK], port])


async def test_what_was_changed_on_the_way_comes_again_whole(keys: Callable[[str], Keys]) -> None:
    a, b = an_end("a/0~1", keys), an_end("b/0~1", keys)
    proxy, endpoint = await through(Changing, b)
    assert isinstance(proxy, Changing)
    a.links.open(b.slot, endpoint)
    b.links.open(a.slot, a.transport.endpoint)
    async with ends(a, b):
        for i in range(60):
            proxy.change = proxy.change or i % 20 == 10
            a.bulk(b.slot, i)
            await until(lambda i=i: len(b.got) > i - 5)
        await until(lambda: len(b.got) == 60)
        assert b.got == list(range(60))
        assert len(b.errors) == 3
        assert all("its signature is wrong" in e for e in b.errors)
        assert a.errors == []
        await proxy.stop()


async def test_a_connection_that_breaks_loses_and_doubles_nothing(
    keys: Callable[[str], Keys],
) -> None:
    count = 200
    a, b = an_end("a/0~1", keys), an_end("b/0~1", keys)
    there, endpoint = await through(Proxy, b)
    a.links.open(b.slot, endpoint)
    b.links.open(a.slot, a.transport.endpoint)
    async with ends(a, b):
        for i in range(count):
            a.bulk(b.slot, i)
            await asyncio.sleep(0.001)
            if i % 40 == 20:
                await until(lambda: bool(there.writers))
                there.cut()
        await until(lambda: len(b.got) >= count, 30)
        assert b.got == list(range(count))
        assert there.breaks >= 5
        assert all("was lost and is back" in e for e in a.errors)
        assert [e for e in b.errors if not of_a_cut(e)] == []
        await until(lambda: a.links._links[b.slot][BULK].session.kept_bytes == 0)
        await there.stop()


async def test_a_key_on_a_lane_that_is_not_secret_is_not_taken(
    keys: Callable[[str], Keys],
) -> None:
    a, b = pair(keys)
    async with ends(a, b):
        a.bulk(b.slot, 0)
        await until(lambda: b.got == [0])
        lanes = a.links._links[b.slot]
        a.links._codec.put(lanes[BULK].buffer, 0, wire.BulkKey(Seals().issue("b/0~1")))
        lanes[BULK].added()
        await until(lambda: any("where none is wanted" in e for e in b.errors))
        b.bulk(a.slot, 1)
        await until(lambda: a.got == [1])


# ------------------------------------------------------------ the switch


@pytest.mark.parametrize(
    ("transport", "bulk", "mechanism"),
    [
        ("tcp", "signed", zmq.PLAIN),
        ("tcp", "encrypted", zmq.CURVE),
        ("ipc", "signed", zmq.CURVE),
    ],
)
async def test_the_switch_in_the_run_table(
    tmp_path: Path, keys: Callable[[str], Keys], transport: str, bulk: str, mechanism: int
) -> None:
    run = {
        "transport": transport,
        "host": "127.0.0.1",
        "security": "curve",
        "guests": False,
        "bulk": bulk,
    }
    opened = open_transport(run, tmp_path, tmp_path, "a/0", 1)
    try:
        assert opened._inboxes[BULK].socket.get(zmq.MECHANISM) == mechanism
        assert (opened.seals is not None) == (mechanism == zmq.PLAIN)
    finally:
        opened.close(0)
