"""Issues tickets: takes slots from the ledger's owner, makes each a prompt, hands it on.

    take slots  ->  the k-th problem  ->  tokens  ->  a driver  ->  report "handed"

Stateless: which ticket numbers exist is the owner's knowledge, and the k-th problem follows from
the topology. A prompter that starts, or that lost a reply, or that meets a trainer which resumed,
asks for everything that is outstanding and issues it again; late duplicates lose at the trainer.

Waits for: room (the owner's reply), a driver with room. Knows nothing of answers and rewards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from realnet import Actor, Ask, Config, Outlet, StateIn, doc
from realnet.config import Shared
from realnet.roles.messages import PolicyStatus, ReportTickets, TakeSlots, Ticket, TicketKey
from realnet.roles.prompter.reports import Reports
from realnet.roles.slots import SlotAsker
from realnet.roles.tables import Policy, Task
from realnet.roles.tasks import (
    CannotAsk,
    Dataset,
    TextCodec,
    check_asking,
    check_tasks,
    make_ticket,
)

_SHOWN = 5  # prompts that cannot be asked are told one by one up to here; the ledger counts all


class PrompterConfig(Config):
    """`[roles.prompter]`."""

    want: Annotated[int, doc("tickets asked for at a time; 0: a batch", ge=0)] = 0
    wait_s: Annotated[float, doc("seconds that one request for tickets may wait", gt=0)] = 20.0


class Prompter(Actor[PrompterConfig]):
    """Turns room in the ledger into tickets. Knows nothing of answers, rewards or steps."""

    shared = (Policy, Task)
    tickets = Outlet(Ticket)
    trainer = Ask(TakeSlots, ReportTickets, joined_by="policy")
    status = StateIn(PolicyStatus, joined_by="policy")

    @classmethod
    def preload(cls) -> None:
        """Import the tokenizer's library."""
        import realnet.roles.models.reference  # noqa: F401

    @classmethod
    def check(cls, config: PrompterConfig, shared: dict[type[Shared], Any], base: Path) -> None:
        """Refuse tasks to train on that cannot be read or asked, or none."""
        from realnet.roles.models.reference import load_tokenizer

        del config
        policy = shared[Policy]
        check_tasks(shared[Task], base, use="train", curriculum=policy.curriculum)
        dataset = Dataset(shared[Task], base)
        check_asking(dataset, dataset.train_names, policy, load_tokenizer(policy, base))

    async def start(self) -> None:
        """Open tasks and tokenizer."""
        from realnet.roles.models.reference import load_tokenizer

        self._policy = self.one(Policy)
        base = self.run_info.base
        self._dataset = Dataset(self.all(Task), base, self._policy.curriculum)
        self._tokenizer: TextCodec = await self.compute(
            load_tokenizer, self._policy, base, label="load tokenizer"
        )
        self._reports = Reports(self, self.trainer, self.config.wait_s)
        self._issued: Counter[int] = Counter()
        self._num_refused = 0
        self.tickets.on_set_aside(self._reports.set_aside)

    async def run(self) -> None:
        """Issue tickets until the policy is trained."""
        status = await self.status.get()
        self._name = status.version.policy
        self.spawn(self._reports.run(self._name), name="report tickets")
        asker = SlotAsker(self, self.trainer, self.config.wait_s)
        want, branch = self.config.want or self._policy.batch, status.version.branch
        while not status.finished:
            if status.version.branch != branch:
                # The trainer resumed: tickets that it had lent out may be in nobody's hands.
                branch, asker.anew = status.version.branch, True
                self._issued.clear()
            anew = asker.anew
            every = self._policy.batch * (self._policy.max_age + 1)
            wanted = max(want, every) if anew else want  # anew brings nothing new
            slots = await asker.take(self._name, wanted, self._dataset.num_standings)
            if slots is not None:
                self._dataset.learn(slots.standings)
                for start, end in slots.intervals:
                    for ticket in range(start, end):
                        if not (anew and self._issued[ticket]):
                            await self._issue(ticket, branch)
            status = self.status.value or status
        self.progress("the policy is trained: no more tickets")

    async def _issue(self, ticket: int, branch: int) -> None:
        """Hand one ticket to a driver, or set it aside when it cannot be asked."""
        task, problem = self._dataset.train(ticket)
        status = self.status.value  # it comes before the room that it gives
        try:
            record = make_ticket(
                TicketKey(self._name, ticket),
                task,
                problem,
                self._policy,
                self._tokenizer,
                group=self._policy.group,
                temperature=self._policy.temperature,
                at_least=status.version if status is not None else None,
            )
        except CannotAsk as error:
            self._num_refused += 1
            if self._num_refused <= _SHOWN:
                self.event(f"ticket {ticket} set aside: {error}", ticket=ticket, task=task)
            self._reports.aside(ticket, str(error))
            return
        # A ticket that is issued again on purpose must not pass for a redelivery of the first.
        key = f"{record.key}@{branch}.{self._issued[ticket]}"
        self._issued[ticket] += 1
        await self.tickets.send(record, key=key)
        self._reports.handed(ticket)
