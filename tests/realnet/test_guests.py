"""Guests in a run of one loop: what they ask, follow, host; how they come, leave and die."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_net import topology

from realnet import Ask, ConfigError, Message, NoPeer, RealnetError, Refused, Request, wire
from realnet.control import HEAD, Finish, Observation, Observed, PeerDown, member_of
from realnet.guest.records import DESK
from realnet.testing import Running, running


def net(folder: Path, *, num: int = 20, workers: int = 1, places: int = 3) -> str:
    text = topology(folder, num=num, workers=workers)
    return text.replace(f"count = {workers}\n", f"count = {workers}\nmax = {places}\n")


def code(folder: Path) -> ModuleType:
    """The module of the roles, as the run has loaded it."""
    found = sys.modules["realnet_user_pipeline"]
    assert str(found.__file__) == str(folder / "pipeline.py")
    return found


async def all_up(run: Running) -> None:
    await run.until(lambda: all(run.is_up(s) for s in run.head.status))


async def test_a_script_asks_streams_and_follows(tmp_path: Path) -> None:
    async with running(net(tmp_path), tmp_path) as run:
        roles = code(tmp_path)
        async with run.guest("notebook") as node:
            assert (await node.ask("helper", roles.Scale(3))).factor == 1
            assert [f.factor async for f in node.stream("helper", roles.Count(3))] == [0, 1, 2]
            level = await node.follow("helper", roles.Level)
            assert (await level.get()).level == 7
            assert await node.follow("helper", roles.Level) is level
            run.actor("helper/0").level.set(roles.Level(8))
            assert (await level.changed()).level == 8
            with pytest.raises(Refused, match="minus one"):
                await node.ask("helper", roles.Scale(-1))
            status = run.head.run_status()
            assert status.slots["notebook/0"].state == "guest"
            assert "notebook/0~" in next(iter(run.head.desk.register.guests))
        await run.until(lambda: any("guest notebook is gone: it left" in e for e in run.events()))
        assert "notebook/0" not in run.head.run_status().slots
        assert not any("guest" in str(p) for p in run.actor("helper/0").level.peers)


async def test_what_does_not_fit_is_told_with_port_role_and_types(tmp_path: Path) -> None:
    class Other(Message):
        value: int

    class Unheard(Request[Other]):
        value: int

    Scale = type("Scale", (Unheard,), {"__annotations__": {"more": "int"}, "__module__": __name__})

    async with running(net(tmp_path), tmp_path) as run, run.guest("notebook") as node:
        roles = code(tmp_path)
        with pytest.raises(ConfigError, match=r'"helpr" is no role of .*Did you mean "helper"'):
            await node.ask("helpr", roles.Scale(3))
        with pytest.raises(
            ConfigError, match="helper does not answer Unheard; it answers Count, S"
        ):
            await node.ask("helper", Unheard(3))
        with pytest.raises(ConfigError, match="other fields in Scale than helper"):
            await node.ask("helper", Scale(3, 4))
        with pytest.raises(ConfigError, match="needs a StateOut of the same; sink has squares"):
            await node.follow("sink", roles.Level)
        with pytest.raises(ConfigError) as told:
            await node.actor(roles.Worker, wires={"helper": "sink", "number": "source"})
        lines = str(told.value).splitlines()
        assert [line.partition(" ")[0] for line in lines] == [
            "notebook.worker",
            "notebook.worker.numbers",
            "notebook.worker.squares",
            "notebook.worker.helper",
        ]
        assert 'no port "number". Did you mean "numbers"' in lines[0]
        assert "Inlet of Number) is not wired" in lines[1]
        assert "Roles that fit: source" in lines[1]
        assert "sink does not answer Count, Scale" in lines[3]
        with pytest.raises(ConfigError, match="leaves no place for guests: write max = 2"):
            await node.serve("helper")


async def test_an_actor_of_its_own_gives_work_and_asks(tmp_path: Path) -> None:
    async with running(net(tmp_path, num=0), tmp_path) as run:
        roles = code(tmp_path)
        await all_up(run)

        class Mine(roles.Source):  # type: ignore[name-defined,misc]
            helper = Ask(roles.Scale)

            async def start(self) -> None:
                await super().start()
                self.factor = await self.helper(roles.Scale(1))

        async with run.guest("notebook") as node:
            wires = {"numbers": "worker", "level": "helper", "helper": "helper"}
            mine = await node.actor(Mine, roles.SourceConfig(num=40), wires=wires, name="mine")
            assert mine.address.role == "notebook.mine"
            assert mine.factor.factor == 1
            await run.until(lambda: len(run.actor("sink/0").got) == 39)  # 13 is set aside
            await run.until(lambda: mine.aside == [(13, "thirteen")])
            await run.until(lambda: mine.level.value is not None and mine.level.value.level == 7)
            await run.until(
                lambda: "notebook.mine/0" in run.head.run_status().slots["notebook/0"].actors
            )
            with pytest.raises(ConfigError, match=r"notebook.mine is there already"):
                await node.actor(Mine, roles.SourceConfig(num=0), wires=wires, name="mine")
            await node.remove(mine)
            again = await node.actor(Mine, roles.SourceConfig(num=41), wires=wires, name="mine")
            assert again.address != mine.address
            await run.until(lambda: again.sent == 41)
        assert run.actor("sink/0").times >= 40


async def test_places_of_an_elastic_role_are_taken_and_given_back(tmp_path: Path) -> None:
    async with running(net(tmp_path, num=400), tmp_path) as run:
        async with run.guest("a") as a, run.guest("b") as b:
            first: Any = await a.serve("worker")
            second: Any = await b.serve("worker")
            assert [first.address.index, second.address.index] == [1, 2]
            with pytest.raises(ConfigError, match=r"all 3 places of it are taken \(max = 3\)"):
                await a.serve("worker")
            await run.until(lambda: bool(first.handled and second.handled))
            await b.remove(second)
            third: Any = await a.serve("worker")
            assert third.address.full == "worker/2~2"
            await run.until(lambda: bool(third.handled))
        await run.until(lambda: len(run.actor("sink/0").got) == 399)
        workers = {square.worker for square in run.actor("sink/0").got.values()}
        assert workers == {0, 1, 2}


async def test_a_guest_that_dies_holds_nothing_up(tmp_path: Path) -> None:
    async with running(net(tmp_path, num=300), tmp_path) as run:
        run.head.desk._beats.suspect_after_s, run.head.desk._beats.hung_after_s = 0.3, 0.6
        node = run.guest("a")
        await node.__aenter__()
        held: Any = await node.serve("worker")
        held.hold = True
        await run.until(lambda: held.holding > 0)
        node._process.closed = True  # as if the process were gone: it hears and says nothing
        node._transport.close()
        await run.until(lambda: any("guest a is gone: silent for" in e for e in run.events()))
        await run.until(lambda: len(run.actor("sink/0").got) == 299)
        node._process.closed = False
        node._leave_s = 0.0
        node._why = "dead"
        await node.__aexit__(None, None, None)
        async with run.guest("a") as again:  # another life of the same name
            assert (await again.ask("helper", code(tmp_path).Scale(3))).factor == 1


async def test_one_name_is_one_guest(tmp_path: Path) -> None:
    async with running(net(tmp_path), tmp_path) as run:
        async with run.guest("notebook") as node:
            with pytest.raises(ConfigError, match="notebook is in this run already"):
                async with run.guest("notebook"):
                    raise AssertionError("entered")
            assert (await node.ask("helper", code(tmp_path).Scale(3))).factor == 1
            for name, why in (
                ("worker", "is a role of"),
                ("head", "is a role of"),
                ("a b", "cannot"),
            ):
                with pytest.raises(ConfigError, match=why):
                    async with run.guest(name):
                        raise AssertionError("entered")
        assert any("refused the guest notebook" in e for e in run.events())


async def test_an_actor_that_fails_is_taken_out_and_told(tmp_path: Path) -> None:
    async with running(net(tmp_path, num=30), tmp_path) as run:
        roles = code(tmp_path)

        class Broken(roles.Worker):  # type: ignore[name-defined,misc]
            async def run(self) -> None:
                raise RuntimeError("the guest's own fault")

        async with run.guest("notebook") as node:
            await node.serve("worker", Broken)
            with pytest.raises(RuntimeError, match="own fault"):
                await node.wait()
            told = "worker/1 has left: RuntimeError: the guest's own fault"
            await run.until(lambda: any(told in e for e in run.events()))
            assert (await node.ask("helper", roles.Scale(3))).factor == 1
        await run.until(lambda: len(run.actor("sink/0").got) == 29)


async def test_the_end_of_the_run_ends_the_wait(tmp_path: Path) -> None:
    async with running(net(tmp_path), tmp_path) as run:
        roles = code(tmp_path)
        async with run.guest("notebook") as node:
            served: Any = await node.serve("worker")
            waiting = asyncio.ensure_future(node.wait())
            await run.until(lambda: bool(served.handled))
            await run.head.stop_all(graceful=True)
            assert await waiting == "the run has ended"
            with pytest.raises(NoPeer, match="in no run any more: the run has ended"):
                await node.ask("helper", roles.Scale(3))


async def test_a_guest_has_no_say_in_the_run(tmp_path: Path) -> None:
    async with running(net(tmp_path), tmp_path) as run:
        async with run.guest("notebook") as node:
            process = node._process
            process.codec.register(Finish)
            me = member_of(process.slot)
            rows = (Observation("source/0", "metrics", 0.0, "{}"),)
            for record, to in (
                (Finish("source/0", "enough"), HEAD),
                (Observed(rows), HEAD),
                (Observed(rows), DESK),
                (PeerDown("worker/0~1", "because I say so"), member_of("helper/0~1")),
            ):
                process.codec.register(type(record))
                body, frames = process.codec.encode(record)
                process.way(to, "", me, "", 0).send(wire.Tell(body), frames)
            for told in (
                f"refused the end of the run from {me}",
                f"refused rows from {me}",
                f"refused what {me} said of source/0",
                f"refused an order to @helper/0/0~1 from {process.slot}: it is not the head",
            ):
                await run.until(lambda told=told: any(told in e for e in run.events()))
            assert not run.head.ended.done()
            with pytest.raises(RealnetError, match="entered once"):
                await node.__aenter__()
        await run.until(lambda: len(run.actor("sink/0").got) == 19)


async def test_a_run_may_take_no_guests(tmp_path: Path) -> None:
    text = net(tmp_path) + "[run]\nguests = false\n"
    async with running(text, tmp_path) as run:
        with pytest.raises(ConfigError, match="takes no guests"):
            async with run.guest("notebook"):
                raise AssertionError("entered")


def test_it_is_public() -> None:
    assert importlib.import_module("realnet").Node.__module__ == "realnet.guest.node"
