"""The generator and driver roles as running actors, in one loop with a stand-in for the rest."""

from __future__ import annotations

import asyncio
import itertools
import mmap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from realnet import Actor, Ask, Config, Delivery, Inlet, Outlet, StateOut, handles
from realnet.actor import Clock, RunInfo
from realnet.address import Address
from realnet.cell import Cell
from realnet.codec import Codec
from realnet.config import read_table
from realnet.deadlines import Deadlines
from realnet.errors import Refused, WireError
from realnet.roles.driver.driver import Driver, DriverConfig
from realnet.roles.generator.engine import EngineConfig, FakeConfig
from realnet.roles.generator.fake_engine import FakeEngine
from realnet.roles.generator.generator import Generator, GeneratorConfig
from realnet.roles.generator.stepped import SteppedEngine
from realnet.roles.messages import (
    Announced,
    Attempt,
    Delta,
    Generate,
    GroupClosed,
    Held,
    Location,
    Manifest,
    Rollout,
    Sampling,
    Ticket,
    TicketKey,
    Version,
)
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.tables import Policy
from realnet.roles.weights import ArenaSlots, fill, layout
from realnet.roles.weights.room import Room
from realnet.waits import Waits
from realnet.ways import LocalWay, Take, Way

POLICY = Policy(model="new:llama", tokenizer="new:chars", context=64)
TOKENIZER = Tokenizer.new_chars()


class Rest(Actor[Config]):
    """Prompter, rewarder, trainer and parameter server in one."""

    tickets = Outlet(Ticket)
    rollouts = Inlet(Rollout)
    closed = Inlet(GroupClosed)
    versions = StateOut(Announced)
    driver = Ask(Attempt)
    generator = Ask(Generate)

    async def start(self) -> None:
        self.got: list[Rollout] = []
        self.ended: list[GroupClosed] = []
        self.news = asyncio.Event()

    @rollouts.handler
    async def take(self, item: Delivery[Rollout]) -> None:
        self.got.append(item.body)
        self.news.set()

    @closed.handler
    async def close(self, item: Delivery[GroupClosed]) -> None:
        self.ended.append(item.body)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


class Deadly(Actor[Config]):
    """A generator that writes two tokens and then fails its caller."""

    async def start(self) -> None:
        self.sent = 0

    @handles
    async def generate(self, request: Generate) -> AsyncIterator[Delta]:
        logprobs = np.array([-1, -2], np.float32)
        yield Delta(np.array([20, 21], np.int32), logprobs, Version("policy", 0, 90))
        self.sent += 1  # asked for the next one: the first is on its way
        await asyncio.Event().wait()


class Net:
    """A node for several cells in one loop."""

    def __init__(self, folder: Path) -> None:
        self.codec = Codec()
        self.waits = Waits(asyncio.get_running_loop().time)
        self.deadlines = Deadlines(asyncio.get_running_loop().time)
        self.clock = Clock(asyncio.get_running_loop().time)
        self.run_info = RunInfo("test", folder, 1, False, folder)
        self.cells: dict[str, Cell] = {}
        self.failures: list[BaseException] = []
        self.rows: list[dict[str, Any]] = []
        main = asyncio.current_task()
        assert main is not None
        self.main = main

    async def add(self, kind: type[Actor[Any]], name: str, config: Config) -> Any:
        cell = Cell(self, kind, Address(name, 0), config, {Policy: POLICY})
        self.cells[cell.address.full] = cell
        await cell.actor.start()
        cell.begin_run()
        return cell.actor

    def join(self, one: Actor[Any], port: str, other: Actor[Any], other_port: str = "") -> None:
        a, b = self.cells[one.address.full], self.cells[other.address.full]
        a.ports[port].peer_up(b.address.full, other_port)
        if other_port:
            b.ports[other_port].peer_up(a.address.full, port)

    def kill(self, actor: Actor[Any]) -> None:
        self.cells.pop(actor.address.full)
        for cell in self.cells.values():
            for port in cell.ports.values():
                port.peer_down(actor.address.full)

    def way(self, to: str, port: str, sender: str, sender_port: str, lane: int) -> Way:
        def find() -> Take | None:
            cell = self.cells.get(to)
            return cell.taker(sender, sender_port, port) if cell is not None else None

        return LocalWay(find, asks=not (port and sender_port))

    def told(self, error: WireError) -> None:
        raise error

    def is_local(self, peer: str) -> bool:
        return True

    def failed(self, address: Address, error: BaseException) -> None:
        self.failures.append(error)
        self.main.cancel()  # the test waits for what will not come

    def observe(self, address: Address, kind: str, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self, address: Address, text: str) -> None: ...

    async def arena(self, name: str, slot_bytes: int, slots: int) -> str:
        raise NotImplementedError


@asynccontextmanager
async def net(folder: Path) -> AsyncIterator[Net]:
    made = Net(folder)
    try:
        yield made
    finally:
        cells = list(made.cells.values())
        for cell in cells:
            await cell.end(graceful=False)
        if made.failures:
            raise made.failures[0]


async def soon(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds; the test's time limit ends it otherwise."""
    for turn in itertools.count():
        if condition():
            return
        await asyncio.sleep(0.001 if turn > 50 else 0)


def fake(**table: Any) -> GeneratorConfig:
    pretend = FakeConfig(**({"mean": 7.0} | table))
    return GeneratorConfig(engine=EngineConfig(kind="fake", slots=4, flush=8, fake=pretend))


def held(number: int) -> Held:
    """A version without bytes: all that the fake engine needs."""
    return Held(Manifest(Version("policy", 0, number), (), 0, ""), Location("", 0, 0))


def announce(*numbers: int) -> Announced:
    return Announced(held(numbers[0]), tuple(held(n) for n in numbers[1:]))


def ticket(number: int, group: int = 3, pinned: Version | None = None, **sampling: Any) -> Ticket:
    return Ticket(
        key=TicketKey("policy", number),
        task="t",
        prompt_ids=np.array(TOKENIZER.encode("1+2="), np.int32),
        prompt="1+2=",
        answer="3",
        group=group,
        sampling=Sampling(**({"max_tokens": 20} | sampling)),
        pinned=pinned,
    )


def generate(pinned: Version | None = None, **sampling: Any) -> Generate:
    return Generate(
        policy="policy",
        prompt_ids=np.array([4, 5], np.int32),
        sampling=Sampling(**({"max_tokens": 20} | sampling)),
        tokens_so_far=np.zeros(0, np.int32),
        pinned=pinned,
    )


async def whole(made: Net, config: GeneratorConfig) -> tuple[Rest, Driver, Generator]:
    rest = await made.add(Rest, "rest", Config())
    generator = await made.add(Generator, "generator", config)
    driver = await made.add(Driver, "driver", DriverConfig(tickets=2))
    made.join(rest, "tickets", driver, "tickets")
    made.join(driver, "rollouts", rest, "rollouts")
    made.join(driver, "closed", rest, "closed")
    made.join(rest, "versions", generator, "versions")
    made.join(driver, "engine", generator)
    made.join(rest, "driver", driver)
    made.join(rest, "generator", generator)
    return rest, driver, generator


# ---------------------------------------------------------------- the two roles together


async def test_tickets_become_rollouts_and_closed_groups(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, _ = await whole(made, fake())
        for number in range(5):
            sent = rest.tickets.send(ticket(number), key=str(number))
            rest.spawn(sent, name=f"send {number}")
        rest.versions.set(announce(3))
        await rest.until(lambda: len(rest.ended) == 5 and len(rest.got) == 15)
        assert sorted(str(r.key) for r in rest.got) == sorted(
            f"policy/{t}#{s}" for t in range(5) for s in range(3)
        )
        assert {(c.samples, c.reason) for c in rest.ended} == {(3, "")}
        for rollout in rest.got:
            prompt, answer = rollout.segments
            assert TOKENIZER.decode(prompt.token_ids) == rollout.prompt == "1+2="
            assert (prompt.origin, answer.origin) == ("prompt", "model")
            assert (prompt.learn, answer.learn) == (False, True)
            assert [(s.version.number, s.length) for s in answer.spans] == [(3, 7)]
            assert rollout.stop == "stop"
            assert answer.token_ids[-1] == TOKENIZER.eos_id
            assert TOKENIZER.decode(answer.token_ids) == rollout.text
            assert (rollout.task, rollout.answer) == ("t", "3")
        await soon(lambda: rest.tickets.leased == 0)


async def test_attempt_gives_the_rollouts_back(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, _ = await whole(made, fake())
        rest.versions.set(announce(0))
        reply = await rest.driver(Attempt(ticket(1, group=4, seed=5)), deadline_s=20.0)
        again = await rest.driver(Attempt(ticket(1, group=4, seed=5)), deadline_s=20.0)
        assert [r.key.sample for r in reply.rollouts] == [0, 1, 2, 3]
        assert [r.text for r in reply.rollouts] == [r.text for r in again.rollouts]
        assert len({r.text for r in reply.rollouts}) == 4
        assert rest.got == []


async def test_a_dead_generator_costs_no_token(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, driver, generator = await whole(made, fake())
        deadly = await made.add(Deadly, "deadly", Config())
        cell = made.cells[driver.address.full]
        cell.ports["engine"].peer_down(generator.address.full)
        made.join(driver, "engine", deadly)
        rest.versions.set(announce(91))
        rest.spawn(rest.tickets.send(ticket(0, group=2)), name="send")
        await soon(lambda: deadly.sent == 2)
        for _ in range(3):
            await asyncio.sleep(0)  # what is on its way arrives at the next turn of the loop
        dead = made.cells[deadly.address.full]
        made.kill(deadly)
        made.join(driver, "engine", generator)
        await rest.until(lambda: len(rest.ended) == 1)
        await dead.end(graceful=False)
        for rollout in rest.got:
            answer = rollout.segments[1]
            assert answer.token_ids[:2].tolist() == [20, 21]
            assert [(s.version.number, s.length) for s in answer.spans] == [(90, 2), (91, 5)]


async def test_a_ticket_that_cannot_be_answered_closes_with_the_reason(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, _ = await whole(made, fake())
        rest.versions.set(announce(5))
        bad = msgspec.structs.replace(ticket(0), prompt_ids=np.zeros(0, np.int32))
        rest.spawn(rest.tickets.send(bad), name="send")
        await rest.until(lambda: len(rest.ended) == 1)
        assert rest.ended[0].samples == 0
        assert "empty prompt" in rest.ended[0].reason
        assert rest.got == []


async def test_a_ticket_whose_drivers_died_is_not_tried_again(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, driver, _ = await whole(made, fake())
        finished: list[str | None] = []
        await driver.answer(Delivery(ticket(0), "k", 4, finished.append))
        await rest.until(lambda: len(rest.ended) == 1)
        assert rest.ended[0].samples == 0
        assert "died 3 times" in rest.ended[0].reason


# ---------------------------------------------------------------- versions


async def test_new_versions_are_swapped_in_mid_answer(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, fake(mean=50.0, rate=300.0))
        rest.versions.set(announce(0))
        spans: list[tuple[int, int]] = []
        async for delta in rest.generator.stream(generate(max_tokens=48), deadline_s=20.0):
            spans.append((delta.version.number, len(delta.token_ids)))
            rest.versions.set(announce(1))
        assert spans[0] == (0, 8)
        assert [v for v, _ in spans] == sorted(v for v, _ in spans)
        assert spans[-1][0] == 1
        assert sum(n for _, n in spans) == 48
        assert generator._main.version == Version("policy", 0, 1)


async def test_pinned_versions(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, fake())

        async def numbers(pinned: int) -> set[int]:
            request = generate(Version("policy", 0, pinned))
            deltas = rest.generator.stream(request, deadline_s=20.0)
            return {d.version.number async for d in deltas}

        early = rest.spawn(numbers(5), name="pinned to what is not announced yet")
        await asyncio.sleep(0)
        rest.versions.set(announce(5, 4))
        assert await early == {5}
        assert await numbers(5) == {5}
        assert generator._pinning.second is None, "the engine of the newest versions has it"
        both = await asyncio.gather(*(numbers(n) for n in (4, 5, 4, 4, 5)))
        assert both == [{4}, {5}, {4}, {4}, {5}]
        with pytest.raises(Refused, match=r"policy v0\.3 is pinned, but no longer held.*v0\.4"):
            await numbers(3)
        assert generator._main.version == Version("policy", 0, 5)


async def read(
    rest: Rest, pinned: int, told: Callable[[], None] = lambda: None
) -> list[tuple[int, int]]:
    """The versions that wrote a pinned answer, and how many tokens each. `told`: of each delta."""
    request = generate(Version("policy", 0, pinned), max_tokens=48)
    found: list[tuple[int, int]] = []
    async for delta in rest.generator.stream(request, deadline_s=20.0):
        found.append((delta.version.number, len(delta.token_ids)))
        told()
    return found


async def test_a_pinned_answer_that_a_swap_meets_is_written_to_its_end_by_its_version(
    tmp_path: Path,
) -> None:
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, fake(mean=50.0, rate=300.0))
        rest.versions.set(announce(0))
        spans = await read(rest, 0, lambda: rest.versions.set(announce(1, 0)))
        assert {version for version, _ in spans} == {0}
        assert sum(count for _, count in spans) == 48
        assert generator._main.version == Version("policy", 0, 1), "it was not held up"
        assert generator._pinning.second is not None
        assert generator._pinning.second.engine.version == Version("policy", 0, 0)


async def test_without_a_second_engine_a_swap_waits_and_other_pins_are_refused(
    tmp_path: Path,
) -> None:
    config = fake(mean=50.0, rate=300.0)
    engine = msgspec.structs.replace(config.engine, pinned="live")
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, GeneratorConfig(engine=engine))
        rest.versions.set(announce(0))
        during: list[asyncio.Task[Any]] = []

        def told() -> None:
            rest.versions.set(announce(1, 0))
            assert generator._main.version == Version("policy", 0, 0), "it waits for this answer"
            if not during and generator._pinning._next is not None:
                during.append(asyncio.create_task(read(rest, 0)))

        spans = await read(rest, 0, told)
        assert spans == [(0, 8)] * 6
        await soon(lambda: generator._main.version == Version("policy", 0, 1))
        with pytest.raises(Refused, match=r"v0\.0 is pinned, and policy v0\.1 writes here"):
            await during[0]
        with pytest.raises(Refused, match="there is no second engine"):
            await read(rest, 0)
        assert {version for version, _ in await read(rest, 1)} == {1}
        assert generator._pinning.second is None


async def test_an_engine_goes_forward_whatever_is_announced(tmp_path: Path) -> None:
    """Old and doubled versions: of a server that has forgotten, or a state that comes late."""
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, fake())
        swaps: list[str] = []
        rest.versions.set(announce(3))
        await soon(lambda: generator._main.version == Version("policy", 0, 3))
        swap = generator._main.swap

        async def counted() -> float:
            swaps.append("swap")
            return await swap()

        generator._main.swap = counted  # type: ignore[method-assign]
        for numbers in ((2, 1), (3, 2), (3,)):
            rest.versions.set(announce(*numbers))
            await soon(lambda n=numbers: generator._known.newest.number == n[0])  # type: ignore
        rest.versions.set(announce(4, 3))
        await soon(lambda: generator._main.version == Version("policy", 0, 4))
        assert swaps == ["swap"]


async def test_closing_a_stream_frees_the_engine(tmp_path: Path) -> None:
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, fake(mean=50.0, rate=500.0))
        rest.versions.set(announce(0))
        deltas = rest.generator.stream(generate(max_tokens=48), deadline_s=20.0)
        await anext(deltas)
        await deltas.aclose()
        await soon(lambda: generator._main.num_running == 0)


async def test_damaged_weights_are_an_event_and_the_next_version_is_taken(tmp_path: Path) -> None:
    from realnet.roles.models.build import build_model, named_weights

    model = build_model(POLICY, TOKENIZER, Path(), 0)
    arrays = [(name, weight.numpy()) for name, weight in named_weights(model)]
    items = [(name, "float32", array.shape) for name, array in arrays]
    plan = layout(Version("policy", 0, 0), items)
    size = ArenaSlots.slot_bytes(plan.num_bytes)
    path = tmp_path / "arena"
    path.write_bytes(bytes(2 * size))
    arena = ArenaSlots(str(path), 2, size)
    announced = []
    for slot in range(2):
        arena.begin(slot)
        manifest = msgspec.structs.replace(plan, version=Version("policy", 0, slot))
        with arena.view(slot) as view:
            manifest = fill(manifest, view, [array for _, array in arrays])
        generation = arena.commit(slot, manifest)
        location = Location(str(path), slot, generation, size)
        announced.append(Announced(Held(manifest, location)))
    arena.close()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[size - 2**18] ^= 1  # one bit in the payload of version 0
    config = GeneratorConfig(engine=EngineConfig(slots=4, device="cpu"))
    async with net(tmp_path) as made:
        rest, _, generator = await whole(made, config)
        ask = rest.spawn(
            rest.driver(Attempt(ticket(0, seed=1)), deadline_s=20.0), name="ask before weights"
        )
        rest.versions.set(announced[0])
        await soon(lambda: any("digest differs" in str(row.get("text")) for row in made.rows))
        assert generator._main.version is None
        rest.versions.set(announced[1])
        reply = await ask
        for rollout in reply.rollouts:
            answer = rollout.segments[1]
            assert {s.version.number for s in answer.spans} == {1}
            assert len(answer.token_ids) == len(answer.logprobs) > 0
            assert np.all(answer.logprobs < 0)


# ---------------------------------------------------------------- parts


class Around:
    """A compute thread for an engine without a generator: steps are counted."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    async def compute(self, fn: Callable[..., Any], *args: Any, label: str) -> Any:
        self.labels.append(label)
        return fn(*args)

    @asynccontextmanager
    async def waiting(self, on: str) -> AsyncIterator[None]:
        self.labels.append(on)
        yield


async def test_a_stepped_engine_routes_deltas_and_aborts_what_is_closed() -> None:
    around = Around()
    config = EngineConfig(kind="fake", flush=2, fake=FakeConfig(mean=50.0))
    engine = SteppedEngine(lambda: FakeEngine(config, 64, 0), around, 2, takes_weights=False)
    await engine.start()
    running = asyncio.create_task(engine.run())
    streams = [engine.stream(generate(max_tokens=n)) for n in (4, 6)]
    first = [asyncio.ensure_future(anext(s)) for s in streams]
    await soon(lambda: engine.num_waiting == 2)
    assert around.labels == ["build engine", "the first version"]  # no step before a version
    await engine.stage(Manifest(Version("policy", 0, 0), (), 0, ""), Room())
    await engine.swap()
    assert [len((await f).token_ids) for f in first] == [2, 2]
    await streams[0].aclose()
    rest = [d async for d in streams[1]]
    assert sum(len(d.token_ids) for d in rest) == 4
    assert rest[-1].finish == "length"
    await soon(lambda: around.labels[-1] == "requests")
    assert not engine.num_running
    running.cancel()


def test_config_is_read_from_a_table_and_mistakes_are_told() -> None:
    from realnet.errors import ConfigError

    table = {"engine": {"kind": "fake", "slots": 8, "fake": {"mean": 5}}, "figures": "2s"}
    config = read_table(GeneratorConfig, table, "f: [roles.generator]")
    assert (config.engine.kind, config.engine.slots, config.engine.fake.mean) == ("fake", 8, 5)
    assert config.figures == 2
    with pytest.raises(ConfigError, match=r"engine\.slot: no such key.*slots"):
        read_table(GeneratorConfig, {"engine": {"slot": 8}}, "f: [roles.generator]")
    with pytest.raises(ConfigError, match="engine"):
        read_table(GeneratorConfig, {"engine": {"kv": "fresh"}}, "f: [roles.generator]")
    assert read_table(DriverConfig, {"tickets": 3}, "f: [roles.driver]").tickets == 3
