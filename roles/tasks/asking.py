"""From a problem to a ticket: the prompt through the chat template, into tokens, with its limits.

Knows records and what a tokenizer can do, not which one it is. Called by the prompter and the
evaluator, so that both ask in exactly the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from realnet.errors import ConfigError, RealnetError
from realnet.roles.messages import Sampling, Ticket, TicketKey, Version
from realnet.roles.tables import Policy
from realnet.roles.tasks.dataset import Dataset, Problem
from realnet.roles.tasks.order import derive

_TRIED = 32  # prompts of a task


class TextCodec(Protocol):
    """What is needed of a tokenizer."""

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, special tokens in it recognised, none added."""
        ...

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Return the conversation as text that the model shall continue."""
        ...


class CannotAsk(RealnetError):
    """The prompt is empty, has no tokens, or leaves no room for an answer in the context."""


def make_ticket(
    key: TicketKey,
    task: str,
    problem: Problem,
    policy: Policy,
    tokenizer: TextCodec,
    *,
    group: int,
    temperature: float,
    pinned: Version | None = None,
    at_least: Version | None = None,
) -> Ticket:
    """Return the ticket that asks this problem.

    The seed follows from policy and key, so that a ticket's answers can be drawn again. The
    ticket's `prompt` is the text before the chat template: what rewards and people want to read.
    Raises CannotAsk, naming task and row.
    """
    try:
        ids = np.asarray(tokenizer.encode(templated(problem, tokenizer)), dtype=np.int32)
    except ConfigError as error:  # one odd row of many ends its ticket, not the run
        raise CannotAsk(f"task {task!r}, {problem.source}: {error}") from None
    room = policy.context - len(ids)
    if room < 1:
        raise CannotAsk(
            f"task {task!r}, {problem.source}: the prompt has {len(ids)} tokens, which leaves no "
            f"room for an answer in [policy].context = {policy.context}"
        )
    if not len(ids):
        raise CannotAsk(f"task {task!r}, {problem.source}: the prompt is empty")
    sampling = Sampling(
        temperature=temperature,
        max_tokens=min(policy.max_tokens, room),
        stop_ids=(tokenizer.eos_id,),
        seed=derive(policy.seed, task, key.parent.partition(":v")[0], key.ticket),
    )
    return Ticket(
        key=key,
        task=task,
        prompt_ids=ids,
        prompt=problem.prompt,
        answer=problem.answer,
        group=group,
        sampling=sampling,
        pinned=pinned,
        at_least=at_least,
    )


def templated(problem: Problem, tokenizer: TextCodec) -> str:
    """Return the text that the model is given: through the chat template when the task says so."""
    if not problem.chat:
        return problem.prompt
    return tokenizer.chat([{"role": "user", "content": problem.prompt}])


def check_asking(dataset: Dataset, names: Iterable[str], policy: Policy, codec: TextCodec) -> None:
    """Raise ConfigError for each of these tasks of which no prompt can be asked, as far as tried.

    A task with some such prompts is in order: their tickets are set aside with the reason.
    """
    complaints: list[str] = []
    for name in names:
        problems = dataset.held_out(name, _TRIED)[:_TRIED]
        reasons: list[str] = []
        for number, problem in enumerate(problems):
            key = TicketKey("check", number)
            try:
                make_ticket(key, name, problem, policy, codec, group=1, temperature=1.0)
            except CannotAsk as error:
                reasons.append(str(error))
        if reasons and len(reasons) == len(problems):
            complaints.append(
                f"[tasks.{name}]: none of the first {len(problems)} prompts can be asked: "
                f"{reasons[0]}"
            )
    if complaints:
        raise ConfigError("\n".join(complaints))
