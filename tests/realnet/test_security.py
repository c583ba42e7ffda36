"""Links over ZeroMQ, tcp and keys: who gets in, who is refused and told, what breaks and heals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import zmq
from link_ends import RUN, End, Proxy, ends, of_a_cut, until

from realnet import wire
from realnet.codec import MAX_BATCH_BYTES, Codec, Frame
from realnet.errors import ConfigError, RealnetError, SecurityError
from realnet.testing import plan_of
from realnet.transport import security, sockets
from realnet.transport.security import Keys, make_keys, open_secret, read_keys
from realnet.transport.zmq import ZmqTransport, ipc_endpoint, tcp_endpoint


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    make_keys(tmp_path / "keys", ["a/0", "b/0", "c/0"])
    return lambda slot: read_keys(tmp_path / "keys", slot)


def bound(endpoint: str, keys: Keys | None = None) -> ZmqTransport:
    return ZmqTransport(endpoint, keys, num_lanes=1)


def pair(keys: Callable[[str], Keys] | None, folder: Path, *, tcp: bool = True) -> tuple[End, End]:
    def endpoint(name: str) -> str:
        return tcp_endpoint("127.0.0.1") if tcp else ipc_endpoint(folder, name)

    a = End("a/0~1", bound(endpoint("a"), keys("a/0") if keys else None))
    b = End("b/0~1", bound(endpoint("b"), keys("b/0") if keys else None))
    a.links.open(b.slot, b.transport.endpoint)
    b.links.open(a.slot, a.transport.endpoint)
    return a, b


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("secure", [False, True])
async def test_messages_arrive_in_order(
    tmp_path: Path, keys: Callable[[str], Keys], tcp: bool, secure: bool
) -> None:
    a, b = pair(keys if secure else None, tmp_path, tcp=tcp)
    async with ends(a, b):
        for i in range(1000):
            a.say(b.slot, i)
            b.say(a.slot, i)
            if i % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(a.got) == len(b.got) == 1000)
        assert a.got == b.got == list(range(1000))
        assert a.errors == b.errors == []


async def attack(
    b: End, a: End, attacker: zmq.Socket[bytes], frames: list[bytes], told: str
) -> None:
    """Let an attacker send for a while beside a good peer; see it told and nothing delivered."""
    attacker.set(zmq.LINGER, 0)
    attacker.set(zmq.RECONNECT_IVL, 10)
    attacker.connect(b.transport.endpoint)
    try:
        for i in range(100):
            a.say(b.slot, i)
            with contextlib.suppress(zmq.Again):
                attacker.send_multipart(frames, zmq.DONTWAIT)
            await asyncio.sleep(0.002)
        await until(lambda: len(b.got) == 100)
        await until(lambda: any(told in e for e in b.errors))
        await asyncio.sleep(0.1)  # it goes on trying
        assert b.got == list(range(100))
        assert all(told in e for e in b.errors)
    finally:
        attacker.close(linger=0)


def a_batch(to: End, sender: str = "a/0~1", run: str = RUN) -> list[bytes]:
    head = wire.Head(wire.PROTOCOL, run, sender, to.slot, 0, 1)
    ops = [(1, wire.Route(to.slot, "p", sender, "")), (1, wire.Cancel(666))]
    return [Codec().encode_batch(head, ops)]


@pytest.fixture
def attacker() -> AsyncIterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    yield socket
    socket.close(linger=0)
    context.term()


def with_key(socket: zmq.Socket[bytes], server: bytes, secret: bytes) -> None:
    socket.set(zmq.CURVE_SERVERKEY, server)
    socket.set(zmq.CURVE_SECRETKEY, secret)
    socket.set(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))


async def test_without_a_key(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    a, b = pair(keys, tmp_path)
    async with ends(a, b):
        await attack(b, a, attacker, a_batch(b), "it does not speak as this run does")


async def test_with_a_key_of_nobody(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], zmq.curve_keypair()[1])
    async with ends(a, b):
        await attack(b, a, attacker, a_batch(b), "its key is none of this run's")


async def test_with_a_key_of_an_older_attempt(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    old = keys("a/0").secret
    make_keys(tmp_path / "keys", ["a/0", "b/0"])
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], old)
    async with ends(a, b):
        await attack(b, a, attacker, a_batch(b), "its key is none of this run's")


async def test_with_the_key_of_another_role(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], keys("c/0").secret)
    async with ends(a, b):
        told = "says it is from a/0~1: its key is that of c/0"
        await attack(b, a, attacker, a_batch(b), told)


async def test_a_batch_of_an_older_attempt_from_a_right_key(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], keys("c/0").secret)
    async with ends(a, b):
        frames = a_batch(b, "c/0~1", "run (attempt 0)")
        await attack(b, a, attacker, frames, "of run 'run (attempt 0)'")


async def test_a_frame_over_the_limit_cuts_the_connection_and_is_told(
    tmp_path: Path,
    keys: Callable[[str], Keys],
    attacker: zmq.Socket[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "MAX_BATCH_BYTES", 100_000)
    monkeypatch.setattr("realnet.links.CUT_S", 0.05)
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], keys("c/0").secret)
    async with ends(a, b):
        frames = [*a_batch(b, "c/0~1"), bytes(100_001)]
        await attack(b, a, attacker, frames, "was cut while its process lives")


async def test_many_frames_are_refused_before_decoding(
    tmp_path: Path, keys: Callable[[str], Keys], attacker: zmq.Socket[bytes]
) -> None:
    a, b = pair(keys, tmp_path)
    with_key(attacker, keys("b/0").public["b/0"], keys("c/0").secret)
    async with ends(a, b):
        await attack(b, a, attacker, [*a_batch(b, "c/0~1"), *[b"x"] * 1024], "refused")


@pytest.mark.parametrize("secure", [False, True])
async def test_connections_that_break_lose_and_double_nothing(
    keys: Callable[[str], Keys], secure: bool
) -> None:
    count = 20_000
    a = End("a/0~1", bound(tcp_endpoint("127.0.0.1"), keys("a/0") if secure else None))
    b = End("b/0~1", bound(tcp_endpoint("127.0.0.1"), keys("b/0") if secure else None))
    there, back = Proxy(b.transport.endpoint), Proxy(a.transport.endpoint)
    a.links.open(b.slot, await there.start())
    b.links.open(a.slot, await back.start())
    async with ends(a, b):
        for i in range(count):
            a.say(b.slot, i)
            b.say(a.slot, i)
            if i % 20 == 0:
                await asyncio.sleep(0.0005)
            if i % 1000 == 500:
                proxy = there if i % 2000 == 500 else back
                await until(lambda proxy=proxy: bool(proxy.writers))
                proxy.cut()
        await until(lambda: len(a.got) >= count and len(b.got) >= count, 30)
        assert a.got == b.got == list(range(count))
        assert there.breaks + back.breaks == 20
        assert any("was lost and is back; nothing is lost" in e for e in a.errors + b.errors)
        assert [e for e in a.errors + b.errors if not of_a_cut(e)] == []
        await until(lambda: a.links._links[b.slot][0].session.kept_bytes == 0)
        await there.stop()
        await back.stop()


class BigEnd(End):
    """Takes records with a large frame."""

    def take(self, op: wire.AnyOp, frames: Sequence[Frame]) -> None:
        assert isinstance(op, wire.Tell)
        number = msgspec.msgpack.decode(op.body.raw)
        assert bytes(frames[0]) == bytes([number % 251]) * 200_000
        self.got.append(number)


async def test_large_frames_survive_connections_that_break(keys: Callable[[str], Keys]) -> None:
    count = 300
    a = End("a/0~1", bound(tcp_endpoint("127.0.0.1"), keys("a/0")))
    b = BigEnd("b/0~1", bound(tcp_endpoint("127.0.0.1"), keys("b/0")))
    there = Proxy(b.transport.endpoint)
    a.links.open(b.slot, await there.start())
    b.links.open(a.slot, a.transport.endpoint)
    async with ends(a, b):
        for i in range(count):
            body = wire.Body("Big", msgspec.Raw(msgspec.msgpack.encode(i)), 1)
            a.send(b.slot, wire.Tell(body), [bytes([i % 251]) * 200_000])
            await asyncio.sleep(0.001)
            if i % 50 == 25:
                await until(lambda: bool(there.writers))
                there.cut()
        await until(lambda: len(b.got) >= count, 30)
        assert b.got == list(range(count))
        assert there.breaks >= 6
        await there.stop()


async def test_options_that_bite_are_set(tmp_path: Path, keys: Callable[[str], Keys]) -> None:
    for tcp in (False, True):
        a, b = pair(keys if tcp else None, tmp_path, tcp=tcp)
        async with ends(a, b):
            inbox = a.transport._inboxes[0].socket
            out, _ = a.transport._peers[b.slot].outs[0]
            for socket in (inbox, out):
                assert socket.get(zmq.LINGER) == 1000
                assert socket.get(zmq.RECONNECT_IVL) == 10
                assert socket.get(zmq.RECONNECT_IVL_MAX) == 1000
                assert socket.get(zmq.HANDSHAKE_IVL) == 5000
                assert socket.get(zmq.HEARTBEAT_IVL) == (1000 if tcp else 0)
                assert socket.get(zmq.HEARTBEAT_TIMEOUT) == (5000 if tcp else -1)
            assert inbox.get(zmq.RCVHWM) == out.get(zmq.SNDHWM) == 0
            assert inbox.get(zmq.MAXMSGSIZE) == MAX_BATCH_BYTES
            assert out.get(zmq.IMMEDIATE) == 1
            assert inbox.get(zmq.MECHANISM) == (zmq.CURVE if tcp else zmq.NULL)
            assert out.get(zmq.MECHANISM) == (zmq.CURVE if tcp else zmq.NULL)
            endpoint = a.transport.endpoint
            if tcp:
                assert endpoint.startswith("tcp://127.0.0.1:")
            else:
                assert stat.S_IMODE(os.stat(endpoint[6:]).st_mode) == 0o600


async def test_a_peer_without_a_key_or_of_another_kind_is_not_called(
    tmp_path: Path, keys: Callable[[str], Keys]
) -> None:
    a, b = pair(keys, tmp_path)
    async with ends(a, b):
        with pytest.raises(RealnetError, match="d/0~1 has no key in this run"):
            a.links.open("d/0~1", b.transport.endpoint)
        with pytest.raises(RealnetError, match="links over tcp only"):
            a.links.open("c/0~1", "ipc:///tmp/x")


def test_keys_are_private_and_each_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, ["a/0", "b/0"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    mine, other = read_keys(folder, "a/0"), read_keys(folder, "b/0")
    assert mine.public == other.public
    assert mine.secret != other.secret
    assert read_keys(folder, "a/0", open_secret(folder, "a/0")) == mine
    with pytest.raises(SecurityError, match="do not belong together"):
        read_keys(folder, "a/0", open_secret(folder, "b/0"))


@pytest.mark.parametrize("what", ["keys", "keys/a-0.secret", "keys/public.json"])
def test_keys_that_others_can_read_are_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, ["a/0"])
    (tmp_path / what).chmod((tmp_path / what).stat().st_mode | 0o040)
    with pytest.raises(SecurityError, match="open to others"):
        read_keys(folder, "a/0")
    if what == "keys":
        with pytest.raises(SecurityError, match="open to others"):
            make_keys(folder, ["a/0"])


def test_without_curve_there_are_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security.zmq, "has", lambda what: False)
    with pytest.raises(SecurityError, match="has no CURVE"):
        make_keys(tmp_path / "keys", ["a/0"])


ROLE = """
[run]
{run}
[roles.source]
kind = "pipeline.py:Helper"
"""


def run_of(text: str, folder: Path) -> dict[str, object]:
    pipeline = (Path(__file__).parent / "pipeline.py").read_text(encoding="utf-8")
    (folder / "pipeline.py").write_text(pipeline, encoding="utf-8")
    return plan_of(ROLE.format(run=text), folder).run


def test_keys_are_the_default_on_tcp_and_listening_on_all_is_refused(tmp_path: Path) -> None:
    assert run_of("", tmp_path)["transport"] == "ipc"
    assert run_of("", tmp_path)["security"] == "none"
    assert run_of('transport = "tcp"', tmp_path)["security"] == "curve"
    assert run_of('transport = "tcp"\nsecurity = "none"', tmp_path)["security"] == "none"
    everything = ".".join("0" * 4)
    for host, says in ((everything, "never on all"), ("*", "IPv4"), ("example.org", "IPv4")):
        with pytest.raises(ConfigError, match=says):
            run_of(f'transport = "tcp"\nhost = "{host}"', tmp_path)
    with pytest.raises(ConfigError, match="without keys anybody"):
        run_of('transport = "tcp"\nsecurity = "none"\nhost = "10.0.0.1"', tmp_path)
