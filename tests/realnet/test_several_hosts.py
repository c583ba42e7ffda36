"""Runs over several hosts, without any: who reaches whom, and by which way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from link_ends import End, ends, until

from realnet.errors import DeadlineExceeded, RealnetError
from realnet.launch import NEARBY, agent
from realnet.launch.fitness import best_way, unfit_alone, unfit_together
from realnet.launch.reaching import Probes, WayToHead, ways_to
from realnet.launch.records import Check, Hello
from realnet.launch.rendezvous import HeadFile, HeadWay, prefer, read_head, write_head
from realnet.launch.wanted import Wanted
from realnet.topology.placement import Host
from realnet.transport.endpoints import both_parts, parse_endpoint
from realnet.transport.folders import LOCK, SocketsFolder, sweep
from realnet.transport.nearby import TwoWays
from realnet.transport.opening import open_transport
from realnet.transport.security import Keys, make_keys, read_keys
from realnet.transport.zmq import ZmqTransport, ipc_endpoint, tcp_endpoint


def hello(host: str, **more: object) -> Hello:
    given = {"probe": f"{host}:1", **more}
    return Hello(
        *(f"+host/{host}~1", "", host, host, "", 1, 4, (), 0, 1),
        **given,  # type: ignore[arg-type]
    )


def head(*endpoints: str) -> HeadFile:
    """A head whose probes are where its endpoints are."""
    ways = tuple(HeadWay(e, e.removeprefix("tcp://")) for e in endpoints)
    return HeadFile("run", 1, endpoints[0], "", "", False, "there", 1, 0.0, ways=ways)


def nobody() -> str:
    """An endpoint at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@contextlib.asynccontextmanager
async def somebody() -> AsyncIterator[str]:
    probes = Probes()
    (way,) = await probes.open(["tcp://127.0.0.1:7"])
    try:
        yield f"tcp://{way.probe}"
    finally:
        probes.close()


# ------------------------------------------------------------ the way to the head


async def test_an_agent_finds_the_address_of_the_head_that_it_reaches() -> None:
    async with somebody() as second, somebody() as third:
        ways = await ways_to(head(nobody(), second, third), 0.0)
    assert [w.endpoint for w in ways] == [second, third]
    assert ways[0].address == "127.0.0.1"


async def test_a_head_that_nobody_reaches_is_named_with_what_was_tried() -> None:
    first, second = nobody(), nobody()
    with pytest.raises(RealnetError, match="the head on there cannot be reached") as told:
        await ways_to(head(first, second), 0.0)
    assert first.removeprefix("tcp://") in str(told.value)
    assert second.removeprefix("tcp://") in str(told.value)


def test_the_head_is_found_where_most_hosts_reach_it() -> None:
    everywhere, own_host_only = "tcp://10.0.0.1:1", "tcp://172.17.0.1:1"
    order = (own_host_only, everywhere)
    own = hello("a", way=own_host_only, ways=order)
    others = [hello(h, way=everywhere, ways=(everywhere,)) for h in "bc"]
    assert best_way([own, *others], order) == everywhere
    assert best_way([own], order) == own_host_only  # of equals the first
    assert best_way([], ()) == ""


def test_what_most_can_use_is_looked_for_first_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "1").mkdir(parents=True)
    write_head(tmp_path, head("tcp://a:1", "tcp://b:1", "tcp://c:1"))
    prefer(tmp_path, 1, "tcp://c:1")
    found = read_head(tmp_path)
    assert found is not None
    assert [w.endpoint for w in found.ways] == ["tcp://c:1", "tcp://a:1", "tcp://b:1"]
    assert found.endpoint == "tcp://c:1"
    prefer(tmp_path, 1, "tcp://elsewhere:1")  # none of the head's
    assert read_head(tmp_path) == found


# ------------------------------------------------------------ who is fit


def test_hosts_that_most_others_cannot_reach_are_unfit() -> None:
    hosts = {h: hello(h) for h in "abc"}
    everybody = {h: dict.fromkeys(hosts, True) for h in hosts}
    assert unfit_together(hosts, everybody) == {}
    unheard = {h: {**told, "c": False} for h, told in everybody.items()}
    assert unfit_together(hosts, unheard) == {"c": "a, b cannot reach it at c:1"}
    lost = {**everybody, "b": {}}
    assert unfit_together(hosts, lost) == {"b": "it cannot reach the others"}
    assert unfit_together({"a": hosts["a"]}, {"a": {}}) == {}


def test_a_host_is_unfit_by_its_own_checks_and_its_clock() -> None:
    assert unfit_alone(hello("a", wall_s=-3.0)) == ""
    assert "clock is off by 40 s" in unfit_alone(hello("a", wall_s=-40.0))
    bad = (Check("ulimit -n", False, "12 open files"), Check("code", True))
    assert unfit_alone(hello("a", checks=bad)) == "ulimit -n: 12 open files"


# ------------------------------------------------------------ two ways out


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    make_keys(tmp_path / "keys", ["a/0", "b/0", "c/0"])
    return lambda slot: read_keys(tmp_path / "keys", slot)


def two_ways(slot: str, folder: Path, keys: Keys, *, sign: bool = False) -> TwoWays:
    folder.mkdir(exist_ok=True)
    near = ZmqTransport(ipc_endpoint(folder, slot.replace("/", "-")))
    return TwoWays(ZmqTransport(tcp_endpoint("127.0.0.1"), keys, sign_bulk=sign), near, folder)


def connections(folder: Path) -> int:
    """How many connections were made to sockets in a folder."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(str(folder) + "/" in line and line.split()[5] == "03" for line in lines)


@pytest.mark.parametrize("sign", [False, True])
async def test_who_shares_a_folder_is_linked_by_it_and_all_others_over_tcp(
    tmp_path: Path, keys: Callable[[str], Keys], sign: bool
) -> None:
    here, there = tmp_path / "1", tmp_path / "2"
    a = End("a/0~1", two_ways("a/0", here, keys("a/0"), sign=sign))
    b = End("b/0~1", two_ways("b/0", here, keys("b/0"), sign=sign))
    c = End("c/0~1", two_ways("c/0", there, keys("c/0"), sign=sign))
    async with ends(a, b, c):
        for one in (a, b, c):
            for other in (a, b, c):
                if one is not other:
                    one.links.open(other.slot, other.transport.endpoint)
        for number in range(100):
            a.say(b.slot, number)
            b.say(a.slot, number)
            c.say(a.slot, 1000 + number)
            a.say(c.slot, number)
        await until(lambda: len(a.got) == 200 and len(b.got) == len(c.got) == 100)
        assert [n for n in a.got if n < 1000] == list(range(100))
        assert connections(here) >= 2
        assert connections(there) == 0
        assert not a.errors


def test_an_endpoint_of_two_parts_is_read_by_those_who_know_one() -> None:
    text = "tcp://10.0.0.1:1,2,3;4 ipc:///tmp/x/a-0~1,1,2"
    assert both_parts(text) == ("tcp://10.0.0.1:1,2,3;4", "ipc:///tmp/x/a-0~1,1,2")
    assert parse_endpoint(text).inboxes[2] == "tcp://10.0.0.1:3"
    assert parse_endpoint(text).door == "tcp://10.0.0.1:4"


async def test_a_head_is_heard_at_each_of_its_addresses(
    tmp_path: Path, keys: Callable[[str], Keys]
) -> None:
    heads = ZmqTransport(
        tcp_endpoint("127.0.0.1"), keys("a/0"), guests=True, others=[tcp_endpoint("127.0.0.2")]
    )
    assert [parse_endpoint(e).door.rpartition(":")[0] for e in heads.endpoints] == [
        "tcp://127.0.0.1",
        "tcp://127.0.0.2",
    ]
    a, b = End("a/0~1", heads), End("b/0~1", ZmqTransport(tcp_endpoint("127.0.0.1"), keys("b/0")))
    async with ends(a, b):
        a.links.open(b.slot, b.transport.endpoint)
        b.links.open(a.slot, heads.endpoints[1])
        b.say(a.slot, 7)
        a.say(b.slot, 8)
        await until(lambda: a.got == [7] and b.got == [8])


async def test_a_process_has_a_near_way_when_its_agent_says_so(
    tmp_path: Path, keys: Callable[[str], Keys], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {
        "transport": "tcp",
        "security": "curve",
        "host": "127.0.0.1",
        "bulk": "encrypted",
        "guests": False,
    }
    keys("a/0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = SocketsFolder("test", 1000)
    folder = made.path
    try:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv(NEARBY, str(folder))
        transport = open_transport(run, tmp_path, tmp_path, "a/0", 3)
        _, near = both_parts(transport.endpoint)
        assert near == f"ipc://{folder}/a-0~3,1,2"
        assert (folder / "a-0~3").stat().st_mode & 0o777 == 0o600
        transport.close(0)
    finally:
        made.close()
    assert not folder.exists()


DIES = """
import os, sys, tempfile
from realnet.transport.folders import SocketsFolder
tempfile.tempdir = sys.argv[1]
print(SocketsFolder("dead", 1000).path, flush=True)
os.kill(os.getpid(), 9)
"""


def test_sockets_of_an_agent_that_was_killed_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    dead = Path(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
    assert (dead / LOCK).is_file()
    elsewhere = tmp_path / "realnet-7-elsewhere"  # of another host, where TMPDIR is a shared one
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text("some other host")
    lives = SocketsFolder("lives", 1000)
    assert not dead.exists()
    assert elsewhere.exists()
    assert sweep(tmp_path) == []  # nor its own
    assert lives.path.exists()
    lives.close()


def test_what_others_put_where_sockets_are_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = tmp_path / "realnet-0-waits"  # whoever reads it would wait for ever
    waits.mkdir()
    os.mkfifo(waits / LOCK)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text(platform.node())
    (tmp_path / "realnet-0-link").symlink_to(elsewhere)
    dead = tmp_path / "realnet-0-dead"
    dead.mkdir()
    (dead / LOCK).write_text(platform.node())
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert sweep(tmp_path) == []
    assert sweep(tmp_path) == [dead]
    assert (elsewhere / LOCK).exists()


def test_sockets_are_elsewhere_when_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    lock = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if os.fstat(fd).st_ino in {path.stat().st_ino for path in shared.rglob("*")}:
            raise OSError(errno.ENOSYS, "no locks here")
        lock(fd, how)

    monkeypatch.setattr("tempfile.tempdir", str(shared))
    monkeypatch.setattr("realnet.transport.folders.OTHERWISE", other)
    monkeypatch.setattr(fcntl, "flock", flock)
    made = SocketsFolder("test", 1000)
    assert made.path.parent == other
    assert list(shared.iterdir()) == []
    made.close()
    monkeypatch.setattr("realnet.transport.folders.OTHERWISE", shared)
    with pytest.raises(OSError, match="no locks here"):
        SocketsFolder("test", 1000)


async def test_an_agent_that_is_not_heard_by_the_way_that_the_head_wants_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = [WayToHead(f"tcp://10.0.0.{n}:1", "10.0.0.9") for n in (1, 2)]
    answers: list[tuple[int, str] | DeadlineExceeded] = [
        (agent.COME_BY, ways[1].endpoint),
        DeadlineExceeded("no answer"),
        (0, "the run is over"),
    ]
    tried: list[tuple[int, float]] = []

    class Plan:
        def digest(self) -> str:
            return "x"

    async def ways_of(head: HeadFile, limit_s: float) -> list[WayToHead]:
        return ways

    async def live(*given: object) -> tuple[int, str]:
        *_, at, limit_s = given
        assert isinstance(at, int)
        assert isinstance(limit_s, float)
        tried.append((at, limit_s))
        answer = answers.pop(0)
        if isinstance(answer, DeadlineExceeded):
            raise answer
        return answer

    monkeypatch.setattr(agent, "read_plan", lambda folder: Plan())
    monkeypatch.setattr(agent, "ways_to", ways_of)
    monkeypatch.setattr(agent, "_live", live)
    options = agent._arguments([str(tmp_path), "--number", "0"])
    head = HeadFile("run", 1, ways[0].endpoint, "n", "x", False, "h", 1, 0.0)
    assert await agent._main(options, head, ()) == 0
    assert [at for at, _ in tried] == [0, 1, 0]
    assert [limit_s for _, limit_s in tried] == [agent.TRY_S, agent.TRY_S, agent.HELLO_S]


def test_hosts_of_pools_are_counted_pool_by_pool() -> None:
    wanted = Wanted(3, 1, (), {"main": 1, "rollouts": 2})
    hosts = [
        Host(n, pool=p) for n, p in zip("abcd", ("main", "main", "rollouts", "x"), strict=True)
    ]
    assert wanted.lacks(hosts) == "1 of the 2 hosts that pool rollouts needs"
    hosts[3] = Host("d", pool="rollouts")
    assert wanted.lacks(hosts) == ""
    assert [h.spare for h in wanted.shared_out(hosts, {})] == [False, True, False, False]
    alike = Wanted(2)
    assert alike.lacks(hosts[:1]) == "1 of the 2 hosts that this run needs"
    assert [h.spare for h in alike.shared_out([Host(n) for n in "abc"], {})] == [False, False, True]
