"""From a problem to a ticket: the prompt through the chat template, into tokens, with its limits.

Knows records and what a tokenizer can do, not which one it is. Called by the prompter and the
evaluator, so that both ask in exactly the same way.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from realnet.errors import RealnetError
from realnet.roles.messages import Policy, Sampling, Ticket, TicketKey, Version
from realnet.roles.tasks.dataset import Problem
from realnet.roles.tasks.order import derive


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
    """The prompt is empty, or leaves no room for an answer in the context."""


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
    text = problem.prompt
    if problem.chat:
        text = tokenizer.chat([{"role": "user", "content": text}])
    ids = np.asarray(tokenizer.encode(text), dtype=np.int32)
    room = policy.context - len(ids)
    if room < 1:
        raise CannotAsk(
            f"task {task!r}, {problem.source}: the prompt has {len(ids)} tokens, which leaves no "
            f"room for an answer in policy.context = {policy.context}"
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
