"""The prompter: every slot becomes one ticket, once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from realnet.errors import ConfigError, DeadlineExceeded, PeerDied
from realnet.message import Nothing
from realnet.roles.messages import (
    PolicyStatus,
    ReportTickets,
    Slots,
    Standing,
    TakeSlots,
    Ticket,
    Version,
)
from realnet.roles.prompter import Prompter, PrompterConfig
from realnet.roles.tables import Policy, Task

ADDZ = {"addz": Task(data="new:addz", reward={"exact": 1.0})}


class Owner:
    """The ledger's owner: gives room when a test says so, and keeps the books."""

    def __init__(self) -> None:
        self.issued = 0
        self.room = 0
        self.finished: set[int] = set()
        self.handed: Counter[int] = Counter()
        self.aside: dict[int, str] = {}
        self.firsts: list[bool] = []
        self.standings: list[Standing] = []
        self.known: list[int] = []
        self.lose: list[Exception] = []  # errors that replies of TakeSlots become, one each
        self._more = asyncio.Event()

    def give(self, room: int) -> None:
        self.room += room
        self._more.set()

    def _news(self, request: TakeSlots) -> tuple[Standing, ...]:
        return tuple(self.standings[request.standings :]) if request.standings >= 0 else ()

    async def __call__(self, request: TakeSlots | ReportTickets) -> Slots | Nothing:
        if isinstance(request, ReportTickets):
            self.handed.update(request.handed)
            self.aside.update(request.set_aside)
            return Nothing()
        self.firsts.append(request.first)
        self.known.append(request.standings)
        if request.first:
            open_ = [t for t in range(self.issued) if t not in self.finished | set(self.aside)]
            reply = Slots(tuple((t, t + 1) for t in open_), self._news(request))
        else:
            while not self.room:
                self._more.clear()
                await self._more.wait()
            count = min(self.room, request.want)
            self.room -= count
            reply = Slots(((self.issued, self.issued + count),), self._news(request))
            self.issued += count
        if self.lose:
            raise self.lose.pop(0)
        return reply


def status(branch: int = 1, **fields: Any) -> PolicyStatus:
    return PolicyStatus(Version("policy", branch, 0), 0, 0, **fields)


def policy(**fields: Any) -> Policy:
    return Policy(**{"model": "new:llama", "tokenizer": "new:chars", "context": 64} | fields)


class Scene:
    """A prompter between an owner and a driver that takes everything."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.owner = bench, Owner()
        self.outlet, self.status = bench.outlet(), bench.state(status())

    async def start(self, tasks: dict[str, Task] = ADDZ, **fields: Any) -> Prompter:
        self.shared: dict[Any, Any] = {Policy: policy(**fields), Task: tasks}
        ports = {
            "tickets": self.outlet,
            "trainer": self.bench.ask(self.owner),
            "status": self.status,
        }
        prompter: Prompter = await self.bench.start(
            Prompter, PrompterConfig(want=4), self.shared, ports
        )
        self.bench.run(prompter)
        return prompter

    @property
    def tickets(self) -> list[int]:
        return [record.key.ticket for record, _ in self.outlet.sent]

    @property
    def keys(self) -> list[str]:
        return [key for _, key in self.outlet.sent]


@pytest.fixture
def scene(bench: Any) -> Scene:
    return Scene(bench)


async def test_room_becomes_tickets_in_order_and_each_is_reported_once(scene: Scene) -> None:
    await scene.start()
    scene.owner.give(10)
    await scene.bench.until(lambda: len(scene.owner.handed) == 10)
    assert scene.tickets == list(range(10))
    assert set(scene.owner.handed.values()) == {1}
    assert scene.owner.firsts == [True, False, False, False, False]


async def test_a_ticket_says_all_that_a_driver_needs(scene: Scene) -> None:
    await scene.start(group=3, temperature=0.7, max_tokens=500, seed=5)
    scene.owner.give(2)
    await scene.bench.until(lambda: len(scene.tickets) == 2)
    one, two = (record for record, _ in scene.outlet.sent)
    assert isinstance(one, Ticket)
    assert (one.task, one.group, one.pinned) == ("addz", 3, None)
    assert len(one.prompt) == len(one.prompt_ids) == 14
    assert int(one.answer) == sum(map(int, one.prompt.rstrip("=").split("+")))
    assert one.sampling.temperature == 0.7
    assert one.sampling.max_tokens == 64 - 14, "what fits the context, not what was asked"
    assert len(one.sampling.stop_ids) == 1
    assert one.sampling.seed != two.sampling.seed


async def test_the_same_ticket_is_the_same_in_another_life(scene: Scene, bench: Any) -> None:
    await scene.start()
    scene.owner.give(3)
    await scene.bench.until(lambda: len(scene.tickets) == 3)
    again = Scene(bench)
    again.owner.issued = 3
    await again.start()
    await bench.until(lambda: len(again.tickets) == 3)
    assert again.keys == scene.keys, "a driver that still has them takes them for what they are"
    for (one, _), (two, _) in zip(scene.outlet.sent, again.outlet.sent, strict=True):
        assert (one.prompt, one.sampling) == (two.prompt, two.sampling)


async def test_a_curriculum_hears_how_tasks_go_and_deals_the_same_in_another_life(
    scene: Scene, bench: Any, tmp_path: Path
) -> None:
    path = tmp_path / "plan.py"
    path.write_text(
        "def able(ticket, sizes, rewards):\n"
        "    return 'modz' if rewards.get('addz', 0.0) > 0.5 else 'addz'\n"
    )
    reward = {"exact": 1.0}
    tasks = {name: Task(data=f"new:{name}", reward=reward) for name in ("addz", "modz")}
    fields = {"curriculum": f"{path}:able"}
    await scene.start(tasks, **fields)
    scene.owner.give(2)
    await scene.bench.until(lambda: len(scene.tickets) == 2)
    scene.owner.standings.append(Standing(2, {"addz": 0.8}))
    scene.owner.give(2)
    await scene.bench.until(lambda: len(scene.tickets) == 4)
    asked = [record.task for record, _ in scene.outlet.sent]
    assert asked == ["addz", "addz", "modz", "modz"]
    again = Scene(bench)
    again.owner.issued, again.owner.standings = 4, scene.owner.standings
    await again.start(tasks, **fields)
    await bench.until(lambda: len(again.tickets) == 4)
    assert [record.prompt for record, _ in again.outlet.sent] == [
        record.prompt for record, _ in scene.outlet.sent
    ]
    assert again.owner.known[0] == 0, "a new life needs all of them"
    await bench.until(lambda: len(again.owner.known) == 2)
    assert again.owner.known[1] == 1


async def test_a_chat_task_goes_through_the_template_and_keeps_its_plain_prompt(
    scene: Scene,
) -> None:
    task = Task(data="new:addz", reward={"exact": 1.0}, chat=True, prompt="Add: {question}")
    await scene.start({"t": task}, tokenizer="new:bytes", context=256)
    scene.owner.give(1)
    await scene.bench.until(lambda: scene.tickets)
    ticket = scene.outlet.sent[0][0]
    assert ticket.prompt.startswith("Add: 0")
    assert len(ticket.prompt_ids) > len(ticket.prompt)


async def test_a_prompt_that_is_too_long_is_set_aside_with_task_and_row(scene: Scene) -> None:
    await scene.start(context=14)
    scene.owner.give(8)
    await scene.bench.until(lambda: len(scene.owner.aside) == 8)
    assert scene.tickets == []
    reason = scene.owner.aside[3]
    assert "'addz'" in reason
    assert "new:addz seed 0 row 3" in reason
    assert "14 tokens" in reason
    assert 0 < len(scene.bench.world.events) < 8, "told, but not for ever"


async def test_what_a_driver_sets_aside_is_reported(scene: Scene) -> None:
    await scene.start()
    scene.owner.give(2)
    await scene.bench.until(lambda: len(scene.tickets) == 2)
    scene.outlet.tell_aside(scene.outlet.sent[1][0], "the engine refused it")
    await scene.bench.until(lambda: scene.owner.aside)
    assert scene.owner.aside == {1: "the engine refused it"}


async def test_a_lost_reply_loses_no_ticket_and_repeats_none(scene: Scene) -> None:
    await scene.start()
    scene.owner.give(4)
    await scene.bench.until(lambda: len(scene.tickets) == 4)
    scene.owner.finished = {0, 1}
    scene.owner.lose = [DeadlineExceeded("too late")]
    scene.owner.give(4)
    await scene.bench.until(lambda: len(scene.owner.handed) == 8)
    assert sorted(scene.tickets) == list(range(8))


async def test_a_trainer_that_resumed_gets_everything_outstanding_again(scene: Scene) -> None:
    await scene.start()
    scene.owner.give(4)
    await scene.bench.until(lambda: len(scene.tickets) == 4)
    scene.owner.finished = {0}
    scene.owner.lose = [PeerDied("trainer/0 died")]
    scene.status.show(status(branch=2))
    scene.owner.give(1)
    await scene.bench.until(lambda: len(scene.tickets) == 8)
    assert Counter(scene.tickets) == {0: 1, 1: 2, 2: 2, 3: 2, 4: 1}
    assert len(set(scene.keys)) == 8, "a second issue must not be dropped as a redelivery"


async def test_reports_survive_a_trainer_that_is_away(scene: Scene) -> None:
    away = True

    async def owner(request: Any) -> Any:
        if isinstance(request, ReportTickets) and away:
            raise PeerDied("trainer/0 died")
        return await scene.owner(request)

    scene.bench.ask = lambda _owner: type(scene.bench).ask(owner)
    await scene.start()
    scene.owner.give(3)
    await scene.bench.until(lambda: len(scene.tickets) == 3)
    assert not scene.owner.handed
    away = False
    await scene.bench.until(lambda: len(scene.owner.handed) == 3)


async def test_it_waits_for_a_driver_with_room(scene: Scene) -> None:
    await scene.start()
    scene.outlet.room.clear()
    scene.owner.give(100)
    await scene.bench.until(lambda: len(scene.owner.firsts) == 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert scene.owner.issued == 4, "no more is taken than can be handed on"
    scene.outlet.room.set()
    await scene.bench.until(lambda: len(scene.owner.handed) == 100)


async def test_it_ends_when_the_policy_is_trained(bench: Any) -> None:
    scene = Scene(bench)
    await scene.start()
    scene.owner.give(4)
    await bench.until(lambda: len(scene.tickets) == 4)
    scene.status.show(status(finished=True))
    scene.owner.give(1)
    await bench.until(lambda: any(t.get_name() == "run" and t.done() for t in bench.world.tasks))
    assert len(scene.tickets) == 5


def test_check_refuses_tasks_that_cannot_be_read(tmp_path: Path) -> None:
    tasks = {"t": Task(data="./none.jsonl", reward={"exact": 1.0})}
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        Prompter.check(PrompterConfig(), {Task: tasks, Policy: policy()}, tmp_path)  # type: ignore[dict-item]
    held_out = {"t": Task(data="new:addz", reward={"exact": 1.0}, use="eval")}
    with pytest.raises(ConfigError, match="no task to train on"):
        Prompter.check(PrompterConfig(), {Task: held_out, Policy: policy()}, tmp_path)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "{question}" * 6}, r"\[tasks\.t\]: none of the first 32 .* leaves no room"),
        ({"chat": True}, r"\[tasks\.t\]: none of the first 32 .* has no chat template"),
        ({"prompt": "ADD {question}"}, r"does not know: \['A', 'D'\]"),
    ],
)
def test_check_refuses_tasks_of_which_nothing_can_be_asked(
    tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    tasks = {"t": Task(data="new:addz", reward={"exact": 1.0}, **fields)}
    shared: Any = {Task: tasks, Policy: policy()}
    with pytest.raises(ConfigError, match=text):
        Prompter.check(PrompterConfig(), shared, tmp_path)


async def test_one_row_that_the_tokenizer_cannot_read_ends_its_ticket_only(
    scene: Scene, tmp_path: Path
) -> None:
    rows = [json.dumps({"question": f"{c}=", "answer": "1"}) for c in "1\u00e92"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    odd = {"odd": Task(data="./rows.jsonl", reward={"exact": 1.0})}
    Prompter.check(PrompterConfig(), {Task: odd, Policy: policy()}, tmp_path)  # type: ignore[dict-item]
    await scene.start(tasks=odd)
    scene.owner.give(3)
    await scene.bench.until(lambda: len(scene.tickets) == 2 and scene.owner.aside)
    assert [r for r in scene.owner.aside.values() if "rows.jsonl line 2" in r]
