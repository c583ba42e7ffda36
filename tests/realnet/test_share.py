"""Share wires in a run: several ports of one peer, early acks, bounds, leases, related work."""

from __future__ import annotations

from pathlib import Path

import pytest

from realnet import ConfigError
from realnet.testing import running

ROLES = """
import asyncio
from realnet import Actor, Config, Delivery, Inlet, Message, Outlet


class Ball(Message):
    number: int
    colour: str = ""


class ThrowerConfig(Config):
    num: int = 0


class Thrower(Actor[ThrowerConfig]):
    left = Outlet(Ball)
    right = Outlet(Ball)

    async def start(self):
        self.aside = []
        self.left.on_set_aside(lambda ball, why: self.aside.append((ball.number, why)))

    async def run(self):
        for i in range(self.config.num):
            colour = "red" if i % 2 else "blue"
            await self.left.send(Ball(i, colour), key=f"left {i}")
            await self.right.send(Ball(i, colour), key=f"right {i}")


class CatcherConfig(Config):
    window: int = 8
    num_bytes: int = 1000
    lease_s: float = 0.2


class Catcher(Actor[CatcherConfig]):
    one = Inlet(Ball, window="window", window_bytes="num_bytes", lease_s="lease_s")
    two = Inlet(Ball)

    async def start(self):
        self.caught = {"one": [], "two": []}
        self.stuck = asyncio.Event()
        self.how = {}

    @one.handler
    async def on_one(self, item: Delivery[Ball]):
        how = self.how.get(item.key, "")
        if how == "done":
            item.done()
        elif how == "aside":
            item.set_aside("dropped")
        if how == "works":
            while not self.stuck.is_set():
                item.progress()
                await self.clock.sleep(0.01)
        elif how:
            await self.stuck.wait()
        self.caught["one"].append((item.key, item.body.colour))

    @two.handler
    async def on_two(self, item: Delivery[Ball]):
        self.caught["two"].append((item.key, item.body.colour))
"""


def net(folder: Path, wires: str, *, num: int = 0, catchers: int = 1, catcher: str = "") -> str:
    (folder / "balls.py").write_text(ROLES)
    return f"""
[roles.thrower]
kind = "balls.py:Thrower"
num = {num}
[roles.catcher]
kind = "balls.py:Catcher"
count = {catchers}
{catcher}
[wires]
{wires}
"""


EACH = 'a = "thrower.left -> catcher.one"\nb = "thrower.right -> catcher.two"'


@pytest.mark.parametrize(
    "wires",
    [
        pytest.param(EACH, id="each to its own"),
        pytest.param(
            'a = "thrower.left -> catcher.one"\nb = "thrower.right -> catcher.one"\n'
            'c = "thrower.right -> catcher.two"',
            id="two outlets into one inlet, one outlet into two",
        ),
    ],
)
async def test_several_ports_of_one_peer(wires: str, tmp_path: Path) -> None:
    async with running(net(tmp_path, wires, num=40), tmp_path) as run:
        await run.until(lambda: run.is_up("thrower/0") and run.is_up("catcher/0"))
        catcher, thrower = run.actor("catcher/0"), run.actor("thrower/0")
        await run.until(lambda: sum(map(len, catcher.caught.values())) == 80)
        await run.until(lambda: thrower.left.leased == thrower.right.leased == 0)
        got = [key for caught in catcher.caught.values() for key, _ in caught]
        assert sorted(got) == sorted(f"{s} {i}" for i in range(40) for s in ("left", "right"))
        assert (thrower.left.waiting, thrower.right.waiting) == (0, 0)


async def ball(run: object, number: int, key: str, colour: str = "") -> None:
    thrower = run.actor("thrower/0")  # type: ignore[attr-defined]
    kind = type(thrower).left.types[0]
    await thrower.left.send(kind(number, colour), key=key)


async def test_done_and_set_aside_end_an_item_at_once(tmp_path: Path) -> None:
    async with running(net(tmp_path, EACH), tmp_path) as run:
        await run.until(lambda: run.is_up("thrower/0") and run.is_up("catcher/0"))
        catcher, thrower = run.actor("catcher/0"), run.actor("thrower/0")
        catcher.how = {"a": "done", "b": "aside"}
        for number, key in enumerate("ab"):
            await ball(run, number, key)
        await run.until(lambda: thrower.left.leased == 0)
        assert catcher.caught["one"] == []  # both handlers are still at it
        assert (catcher.one.in_hand, catcher.one.in_hand_bytes) == (0, 0)
        assert thrower.aside == [(1, "dropped")]
        catcher.stuck.set()
        await run.until(lambda: len(catcher.caught["one"]) == 2)
        await ball(run, 0, "a")  # the same again: it is known to be done
        await run.until(lambda: thrower.left.leased == 0)
        assert len(catcher.caught["one"]) == 2


async def test_what_makes_no_progress_goes_to_another_member(tmp_path: Path) -> None:
    async with running(net(tmp_path, EACH, catchers=2), tmp_path) as run:
        for slot in ("thrower/0", "catcher/0", "catcher/1"):
            await run.until(lambda slot=slot: run.is_up(slot))
        catchers, thrower = [run.actor(f"catcher/{i}") for i in (0, 1)], run.actor("thrower/0")
        await run.until(lambda: len(thrower.left.peers) == 2)
        catchers[0].how = catchers[1].how = {"stuck": "stuck", "works": "works"}
        for key in ("stuck", "works"):
            await ball(run, 1, key)
        holder = catchers[0] if catchers[0].one.in_hand else catchers[1]
        other = catchers[1] if holder is catchers[0] else catchers[0]
        other.how = {}
        await run.until(lambda: ("stuck", "") in other.caught["one"])
        holder.stuck.set()
        other.stuck.set()
        await run.until(lambda: holder.one.in_hand == other.one.in_hand == 0)
        await run.until(lambda: thrower.left.leased == 0)


async def test_a_field_that_the_wire_names_keeps_work_together(tmp_path: Path) -> None:
    wires = EACH.replace(
        '"thrower.left -> catcher.one"',
        '{ path = "thrower.left -> catcher.one", affinity = "colour" }',
    )
    async with running(net(tmp_path, wires, catchers=3), tmp_path) as run:
        for slot in ("thrower/0", "catcher/0", "catcher/1", "catcher/2"):
            await run.until(lambda slot=slot: run.is_up(slot))
        thrower = run.actor("thrower/0")
        await run.until(lambda: len(thrower.left.peers) == 3)
        for i in range(60):
            await ball(run, i, f"k{i}", f"colour {i % 6}")
        await run.until(lambda: thrower.left.leased == 0)
        where: dict[str, set[int]] = {}
        for i in range(3):
            for _, colour in run.actor(f"catcher/{i}").caught["one"]:
                where.setdefault(colour, set()).add(i)
        assert len(where) == 6
        assert all(len(catchers) == 1 for catchers in where.values())
        assert len(set.union(*where.values())) > 1


@pytest.mark.parametrize(
    ("catcher", "text"),
    [
        ("window = 0", "one has window = 0"),
        ("num_bytes = 0", "window_bytes = 0"),
        ("lease_s = -1.0", "lease_s = -1.0"),
    ],
)
async def test_bounds_that_let_nothing_in_are_refused(
    catcher: str, text: str, tmp_path: Path
) -> None:
    from importlib import import_module

    async with running(net(tmp_path, EACH), tmp_path) as run:
        await run.until(lambda: run.is_up("catcher/0"))
        actor = run.actor("catcher/0")
        kind = import_module(type(actor).__module__)
        name, _, value = catcher.partition(" = ")
        config = kind.CatcherConfig(**{name: float(value) if "." in value else int(value)})
        with pytest.raises(ConfigError, match=text):
            type(actor).one.bounds(config)
        with pytest.raises(ConfigError, match=r"catcher\.one has a window of 8.*reserves 9"):
            actor.one.wired("somebody", "port", 9, "")
