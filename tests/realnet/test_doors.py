"""Guests who dial in: the DEALER -> ROUTER form of a link, with keys and without; cut, resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq
from link_ends import End, Proxy, ends, of_a_cut, until

from realnet import wire
from realnet.errors import RealnetError
from realnet.transport.dial import DialTransport
from realnet.transport.endpoints import endpoint_text, parse_endpoint
from realnet.transport.grants import grant_key, revoke_key
from realnet.transport.security import Keys, make_keys, read_keys
from realnet.transport.zmq import ZmqTransport, ipc_endpoint, tcp_endpoint

GUEST = "notebook/0~7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["a/0", "b/0"])
    return tmp_path / "keys"


def host(folder: Path, slot: str = "a/0", *, tcp: bool = True, secure: bool = True) -> End:
    endpoint = tcp_endpoint("127.0.0.1") if tcp else ipc_endpoint(folder.parent, slot[0])
    keys = read_keys(folder, slot) if secure else None
    return End(f"{slot}~1", ZmqTransport(endpoint, keys, guests=True))


def guest(folder: Path, slot: str = GUEST, *, secure: bool = True, secret: bytes = b"") -> End:
    if not secure:
        return End(slot, DialTransport())
    name = slot.partition("~")[0]
    secret = secret or grant_key(folder, name)
    public = {name: zmq.curve_public(secret), "a/0": read_keys(folder, "a/0").public["a/0"]}
    return End(slot, DialTransport(Keys(name, secret, public)))


@pytest.mark.parametrize(("tcp", "secure"), [(True, True), (True, False), (False, False)])
async def test_both_ways_in_order_whoever_speaks_first(
    folder: Path, tcp: bool, secure: bool
) -> None:
    a, g = host(folder, tcp=tcp, secure=secure), guest(folder, secure=secure)
    async with ends(a, g):
        g.links.open(a.slot, a.transport.endpoint)
        a.links.open(g.slot, "")
        for i in range(1000):
            a.say(g.slot, i)
            if i >= 500:  # the host has had something to say for a while
                g.say(a.slot, i)
            if i % 100 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: len(g.got) == 1000 and len(a.got) == 500)
        assert g.got == list(range(1000))
        assert a.got == list(range(500, 1000))
        assert a.errors == g.errors == []
        lanes = [len(a.links._links[g.slot]), len(g.links._links[a.slot])]
        assert lanes == [1, 1]  # as many as both have


async def test_a_guest_that_comes_before_it_was_told_of_is_kept(folder: Path) -> None:
    a, g = host(folder), guest(folder)
    async with ends(a, g):
        g.links.open(a.slot, a.transport.endpoint)
        g.say(a.slot, 1)
        await until(lambda: a.got == [1])
        a.links.open(g.slot, "")
        a.say(g.slot, 2)
        await until(lambda: g.got == [2])


async def test_cut_connections_lose_and_double_nothing(folder: Path) -> None:
    count = 4000
    a, g = host(folder), guest(folder)
    proxy = Proxy(parse_endpoint(a.transport.endpoint).door)
    async with ends(a, g):
        port = (await proxy.start()).rpartition(":")[2]
        g.links.open(a.slot, f"tcp://127.0.0.1:1;{port}")
        a.links.open(g.slot, "")
        for i in range(count):
            a.say(g.slot, i)
            g.say(a.slot, i)
            if i % 20 == 0:
                await asyncio.sleep(0.0005)
            if i % 500 == 250:
                await until(lambda: bool(proxy.writers))
                proxy.cut()
        await until(lambda: len(a.got) >= count and len(g.got) >= count, 30)
        assert a.got == g.got == list(range(count))
        assert proxy.breaks >= 8
        assert [e for e in a.errors + g.errors if not of_a_cut(e)] == []
        await until(lambda: a.links._links[g.slot][0].session.kept_bytes == 0)
        await proxy.stop()


async def test_what_is_sent_to_a_guest_that_is_away_waits_for_it(folder: Path) -> None:
    a, g = host(folder), guest(folder)
    proxy = Proxy(parse_endpoint(a.transport.endpoint).door)
    async with ends(a, g):
        port = (await proxy.start()).rpartition(":")[2]
        g.links.open(a.slot, f"tcp://127.0.0.1:1;{port}")
        a.links.open(g.slot, "")
        a.say(g.slot, 0)
        await until(lambda: g.got == [0])
        proxy.server.close()
        proxy.cut()
        session = a.links._links[g.slot][0].session
        for i in range(1, 200):  # the router has no way, and says so: nothing vanishes
            a.say(g.slot, i)
            await asyncio.sleep(0.002)
        await until(lambda: not session.connected)
        again = await asyncio.start_server(proxy._serve, "127.0.0.1", int(port))
        await until(lambda: g.got == list(range(200)))
        again.close()
        await proxy.stop()


async def test_a_key_opens_at_once_for_its_own_name_until_it_is_revoked(folder: Path) -> None:
    a = host(folder)
    thief_secret = grant_key(folder, "thief/0")  # granted while the doorkeeper is at work
    thief = guest(folder, "notebook/0~7", secret=thief_secret)
    thief.transport._keys.public["notebook/0"] = zmq.curve_public(thief_secret)  # type: ignore[index]
    secret = grant_key(folder, "notebook/0")
    g = guest(folder, secret=secret)
    async with ends(a, g, thief):
        thief.links.open(a.slot, a.transport.endpoint)
        a.links.open(g.slot, "")
        a.say(g.slot, 5)  # for the one with the right key only
        thief.say(a.slot, 666)
        told = "says it is from notebook/0~7: its key is that of thief/0"
        await until(lambda: any(told in e for e in a.errors))
        g.links.open(a.slot, a.transport.endpoint)
        g.say(a.slot, 1)
        await until(lambda: a.got == [1] and g.got == [5])
        assert thief.got == []
        assert revoke_key(folder, "notebook/0")
        assert not revoke_key(folder, "notebook/0")
        late = guest(folder, "notebook/0~8", secret=secret)
        async with ends(late):
            late.links.open(a.slot, a.transport.endpoint)
            late.say(a.slot, 2)
            await until(lambda: any("does not let us in" in e for e in late.errors))
            await until(lambda: any("its key is none of this run's" in e for e in a.errors))
        assert a.got == [1]


async def test_a_server_that_is_not_who_it_should_be_gets_nothing(folder: Path) -> None:
    b, g = host(folder, "b/0"), guest(folder)
    async with ends(b, g):
        g.links.open("a/0~1", b.transport.endpoint)  # a's key, b's address
        g.say("a/0~1", 1)
        await until(lambda: any("does not speak as this run does" in e for e in b.errors))
        assert b.got == []


async def test_who_has_no_door_or_no_address_is_told_plainly(folder: Path) -> None:
    shut = End("a/0~1", ZmqTransport(tcp_endpoint("127.0.0.1")))
    g = guest(folder, secure=False)
    async with ends(shut, g):
        with pytest.raises(RealnetError, match="has no door for guests"):
            g.links.open("a/0~1", shut.transport.endpoint)
        with pytest.raises(RealnetError, match="cannot be called, and this process has no door"):
            shut.links.open(GUEST, "")
        g.links.open("laptop/0~1", "")  # two whom nobody can call: no link, no error
        assert g.links.way("laptop/0~1", wire.Route("x/0", "p", g.slot, ""), 0) is None


async def test_links_have_as_many_lanes_as_both_ends(tmp_path: Path) -> None:
    a = End("a/0~1", ZmqTransport(ipc_endpoint(tmp_path, "a"), num_lanes=3))
    b = End("b/0~1", ZmqTransport(ipc_endpoint(tmp_path, "b"), num_lanes=2))
    async with ends(a, b):
        b.links.open(a.slot, a.transport.endpoint)
        for lane in (0, 1, 2):
            way = b.links.way(a.slot, wire.Route(a.slot, "p", b.slot, ""), lane)
            assert way is not None
            way.send(wire.Cancel(lane))
        await until(lambda: sorted(a.got) == [0, 1, 2])
        a.links.open(b.slot, b.transport.endpoint)  # it spoke first
        for lane in (0, 1, 2):
            way = a.links.way(b.slot, wire.Route(b.slot, "p", a.slot, ""), lane)
            assert way is not None
            way.send(wire.Cancel(lane))
        await until(lambda: sorted(b.got) == [0, 1, 2])
        assert len(a.links._links[b.slot]) == len(b.links._links[a.slot]) == 2


@pytest.mark.parametrize(
    ("inboxes", "door", "text"),
    [
        (("tcp://127.0.0.1:1",), "", "tcp://127.0.0.1:1"),
        (
            ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"),
            "tcp://127.0.0.1:9",
            "tcp://127.0.0.1:1,2;9",
        ),
        (("ipc:///x/a.0.1", "ipc:///x/a.0.1.1"), "", "ipc:///x/a.0.1,1"),
        (("ipc:///x/a.0.1",), "ipc:///x/a.0.1.door", "ipc:///x/a.0.1;door"),
    ],
)
def test_endpoints_are_text_and_back(inboxes: tuple[str, ...], door: str, text: str) -> None:
    assert endpoint_text(inboxes, door) == text
    assert parse_endpoint(text) == (inboxes, door)


def test_a_folder_of_sockets_may_have_a_blank_in_its_name() -> None:
    inboxes = ("ipc:///tmp/my files/a-0~1", "ipc:///tmp/my files/a-0~1.1")
    text = endpoint_text(inboxes, "ipc:///tmp/my files/a-0~1.door")
    assert parse_endpoint(text) == (inboxes, "ipc:///tmp/my files/a-0~1.door")
    assert parse_endpoint("") == ((), "")
