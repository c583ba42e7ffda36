"""`realnet try FILE`: what the base model answers, and what the rewards say of it. No training.

Prompts of each training task, as the model is given them; K answers each, by the torch engine in
this process; rewards in the same killable processes as a run. For people who write rewards and
prompts. Opens no sockets to others, and leaves nothing behind but a warm start that was asked for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from realnet.cli_runs import RUNS
from realnet.observe.visible import visible
from realnet.roles.checkpoints.origin import locate
from realnet.roles.messages import Rollout, Scored, Ticket, TicketKey
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.rewarder.rewarder import RewarderConfig
from realnet.roles.rewards import RewardPool, score
from realnet.roles.tasks import CannotAsk, Dataset, make_ticket, templated
from realnet.roles.verbs.setting import Setting, setting_of
from realnet.roles.verbs.trial import Asked, Trial, num_written
from realnet.topology import read_source, resolve

if TYPE_CHECKING:
    from realnet.roles.verbs.weights import Weights

_TEXT_CHARS, _PROMPT_CHARS = 240, 120


@click.command("try")
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override.")
@click.option("--prompts", default=20, show_default=True, type=click.IntRange(1), help="Per task.")
@click.option("--answers", type=click.IntRange(1), help="Answers a prompt; without: the group.")
@click.option("--task", "tasks", multiple=True, help="Only this task (several times for more).")
@click.option("--policy", default="", help="Which, when the topology has several.")
@click.option("--from", "source", metavar="RUN[@STEP]", help="Take the weights of a checkpoint.")
@click.option("--warm-start", is_flag=True, help="Make the warm start of a run (and keep it).")
@click.option("--greedy", is_flag=True, help="One answer a prompt, always the likeliest token.")
@click.option("--show", default=2, show_default=True, type=click.IntRange(0), help="Per prompt.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def verb(
    topology: Path,
    overrides: tuple[str, ...],
    prompts: int,
    answers: int | None,
    tasks: tuple[str, ...],
    policy: str,
    source: str | None,
    warm_start: bool,
    greedy: bool,
    show: int,
    runs: Path,
) -> None:
    """Answer some prompts with the base model and judge the answers: is there signal to learn from?

    Trains nothing. Ends with 1 when a prompt could not be asked or a reward could not judge.
    """
    from realnet.roles.verbs import weights as origin  # torch: not for a misspelt topology
    from realnet.roles.verbs.writing import Writer

    console = Console(highlight=False)
    setting = setting_of(resolve(read_source(topology, overrides, runs)), policy)
    chosen = setting.chosen(tasks, "train")
    tokenizer = load_tokenizer(setting.policy, setting.base)
    group = 1 if greedy else answers or setting.policy.group
    trials, tickets = _ask(setting, chosen, tokenizer, prompts, group, greedy)
    if source is not None:
        found = locate(source, runs, setting.policy_name)
        weights = origin.run_weights(found, tokenizer)
    elif warm_start:
        weights = _warm(setting, tokenizer, runs / ".warm", console)
    else:
        origin.check_base(setting)
        weights = origin.base_weights(setting, tokenizer)
    console.print(Text(f"model: {weights.origin}"), soft_wrap=True)
    writer = Writer(setting, tokenizer, weights)
    rollouts: list[Rollout] = []
    total = sum(ticket.group for ticket in tickets)
    with console.status("writing answers") as status:
        for rollout in writer.answers(tickets):
            rollouts.append(rollout)
            status.update(f"writing answers: {len(rollouts)} of {total}")
        status.update("judging")
        scored = asyncio.run(_judge(setting, chosen, rollouts))
    _sort_in(trials, scored)
    for trial in trials:
        _print(console, trial, show)
    sys.exit(_complain(trials))


def _ask(
    setting: Setting,
    chosen: Sequence[str],
    tokenizer: Tokenizer,
    prompts: int,
    group: int,
    greedy: bool,
) -> tuple[list[Trial], list[Ticket]]:
    """Return a trial for each task, and the tickets of all: numbered through."""
    dataset = Dataset(setting.tasks, setting.base)
    trials: list[Trial] = []
    tickets: list[Ticket] = []
    for name in chosen:
        trial = Trial(name)
        limit = dataset.num_rows(name)
        for j in range(min(prompts, limit) if limit else prompts):
            problem = dataset.nth(name, j)
            key = TicketKey(setting.policy_name, len(tickets))
            warmth = 0.0 if greedy else setting.policy.temperature
            try:
                ticket = make_ticket(
                    key,
                    name,
                    problem,
                    setting.policy,
                    tokenizer,
                    group=group,
                    temperature=warmth,
                )
            except CannotAsk as error:
                trial.refused.append(str(error))
                continue
            trial.asked.append(
                Asked(
                    key.ticket,
                    problem.source,
                    problem.prompt,
                    templated(problem, tokenizer),
                    len(ticket.prompt_ids),
                    problem.answer,
                )
            )
            tickets.append(ticket)
        trials.append(trial)
    return trials, tickets


def _warm(setting: Setting, tokenizer: Tokenizer, kept: Path, console: Console) -> Weights:
    from realnet.roles.verbs.weights import warm_weights

    with console.status("warm start") as status:
        return warm_weights(
            setting, tokenizer, kept, lambda step, of: status.update(f"warm start: {step} of {of}")
        )


async def _judge(
    setting: Setting, chosen: Sequence[str], rollouts: Sequence[Rollout]
) -> list[Scored]:
    """Score all answers in worker processes, as the topology's rewarder would."""
    config = setting.table(RewarderConfig, "rewarder")
    pool = RewardPool(
        [reference for name in chosen for reference in setting.tasks[name].reward],
        setting.base,
        workers=config.slots,
        limit_s=config.limit,
        memory_bytes=config.worker_memory,
        attempts=config.attempts,
        log=_to_stderr,
    )
    try:
        await pool.start()
        return await asyncio.gather(*(score(pool, setting.tasks, r) for r in rollouts))
    finally:
        await pool.close()


def _sort_in(trials: Sequence[Trial], scored: Sequence[Scored]) -> None:
    by_number = {asked.number: asked for trial in trials for asked in trial.asked}
    for one in sorted(scored, key=lambda s: s.rollout.key.sample):
        by_number[one.rollout.key.ticket.ticket].scored.append(one)


def _print(console: Console, trial: Trial, show: int) -> None:
    """Show one templated prompt whole, then a table of all, then the verdict in words."""
    if trial.asked:
        first = trial.asked[0]
        title = f"{trial.task}: what the model is given ({first.source}, {first.num_tokens} tokens)"
        console.print(Panel(Text(visible(first.text)), title=Text(title), title_align="left"))
        console.print(_table(trial, show))
    for line in trial.lines():
        console.print(
            Text(line, style="bold" if line.startswith(f"{trial.task}:") else ""), soft_wrap=True
        )
    for kind, count, text in trial.faults():
        console.print(Text(f"  {count}x {kind}: for example {text}", style="red"), soft_wrap=True)


def _table(trial: Trial, show: int) -> Table:
    """Return a table with a section for each prompt and a line for each answer that is shown."""
    table = Table()
    parts = list(dict.fromkeys(name for s in trial.scored for name in s.parts))
    for name in ("prompt", "rewards", *(("answer", "reward", *parts, "end") if show else ())):
        table.add_column(Text(name), overflow="fold")
    for asked in trial.asked:
        prompt = visible(asked.prompt, _PROMPT_CHARS)
        rewards = Text(_spread(asked), style="" if asked.has_signal else "dim")
        head = [Text(f"{prompt}  ({visible(asked.answer, _PROMPT_CHARS)})"), rewards]
        for one in _chosen(asked.scored, show):
            cells = [
                visible(one.rollout.text, _TEXT_CHARS) or "(nothing)",
                "?" if one.reward is None else f"{one.reward:.3g}",
                *(f"{one.parts[n]:.3g}" if n in one.parts else "–" for n in parts),
                f"{one.rollout.stop} {num_written(one.rollout)}",
            ]
            table.add_row(*head, *(Text(cell) for cell in cells))
            head = [Text(""), Text("")]
        if not show:
            table.add_row(*head)
        table.add_section()
    return table


def _chosen(scored: Sequence[Scored], show: int) -> list[Scored]:
    """Return the best, the worst, and others between them; what could not be judged first."""
    order = sorted(scored, key=lambda s: (s.reward is not None, -(s.reward or 0.0)))
    if len(order) <= show or show < 2:
        return order[:show]
    return [*order[: show - 1], order[-1]]


def _spread(asked: Asked) -> str:
    """Return the rewards of a group, highest first, equal ones counted."""
    values = sorted(asked.rewards, reverse=True)
    text = ", ".join(f"{values.count(v)}x {v:.3g}" for v in dict.fromkeys(values))
    lost = len(asked.scored) - len(values)
    return f"{text}{', ' if text and lost else ''}{f'{lost}x no score' if lost else ''}"


def _complain(trials: Sequence[Trial]) -> int:
    """Tell what would end or set tickets aside in a run; return the exit code."""
    complaints = [text for trial in trials for text in trial.refused]
    for trial in trials:
        complaints += [f"{text} ({count} such)" for _, count, text in trial.faults()]
    for text in complaints:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(text, err=True)
    return 1 if complaints else 0


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
