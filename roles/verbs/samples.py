"""`realnet samples RUN`: what a policy wrote at some step, what it got for it, and who wrote it.

Knows runs, samples and terminals. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from realnet.cli_runs import RUNS, find_run
from realnet.errors import RealnetError
from realnet.observe.visible import visible
from realnet.roles.samples import decoding_of
from realnet.roles.verbs.lines import Line, Token, choose, read_samples, tokens
from realnet.roles.verbs.setting import setting_of
from realnet.topology import Plan, read_plan

Piece = Callable[[int], str]
_BIG_GAP = 0.5  # nats: a token whose two log-probabilities differ by so much is marked


@click.command()
@click.argument("run", required=False)
@click.option("--step", type=click.IntRange(0), help="Of this step; without: the newest.")
@click.option("--lowest", "order", flag_value="lowest", help="Lowest reward first.")
@click.option("--highest", "order", flag_value="highest", help="Highest reward first.")
@click.option("--task", default="", help="Only of this task.")
@click.option("--train", "kind", flag_value="train", help="Only answers that were trained on.")
@click.option("--eval", "kind", flag_value="eval", help="Only answers to held-out problems.")
@click.option("--greedy", "decoding", flag_value="greedy", help="Only answers without chance.")
@click.option("--sampled", "decoding", flag_value="sampled", help="Only answers by chance.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1))
@click.option("--tokens", "each", is_flag=True, help="Show each token: version and log-probs.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def verb(
    run: str | None,
    step: int | None,
    order: str | None,
    task: str,
    kind: str | None,
    decoding: str | None,
    limit: int,
    each: bool,
    runs: Path,
) -> None:
    """Show answers of a RUN: prompt, text, reward parts, who wrote which tokens, and how far the
    trainer's opinion of them is from the generator's."""
    folder = find_run(runs, run)
    plan = read_plan(folder)
    lines = read_samples(folder, list(plan.shared.get("policy", {})))
    found = choose(
        lines,
        step=step,
        task=task,
        order=order or "",
        kind=kind or "",
        decoding=decoding or "",
    )
    console = Console(highlight=False)
    piece = _pieces(plan) if each else str
    for line in found[:limit]:
        console.print(_card(line))
        if each:
            console.print(_table(tokens(line), piece))
    more = len(found) - limit
    if more > 0:
        console.print(Text(f"{more} more of step {found[0]['step']}: --limit {len(found)}"))


def _card(line: Line) -> Panel:
    """Return one answer with all that is said about it."""
    source = line.get("source") or (f"ticket {line['ticket']}" if "ticket" in line else "")
    what = "trained on" if line["trained"] else f"held out, {decoding_of(line)}"
    title = f"{line['task']} · step {line['step']} · {what} · {source}".rstrip(" ·")
    body = Text()
    body.append(f"{visible(str(line.get('prompt', '')))}\n", style="dim")
    body.append(f"{visible(str(line.get('text', ''))) or '(nothing)'}\n")
    body.append(f"reference {visible(str(line.get('answer', '')))}\n", style="dim")
    body.append(_reward(line), style="green" if (line["reward"] or 0.0) > 0.0 else "red")
    body.append(f"\n{_written(line)}")
    return Panel(body, title=Text(title), title_align="left")


def _reward(line: Line) -> str:
    if line["reward"] is None:
        return f"no reward: {visible(str(line.get('fault', '')))}"
    parts = ", ".join(f"{name} {value:.3g}" for name, value in line["parts"].items())
    return f"reward {line['reward']:.3g}" + (f" ({parts})" if parts else "")


def _written(line: Line) -> str:
    """Return how it ended, who wrote it, and how far the trainer's opinion is."""
    ended = {"length": "cut at its longest", "stop": "ended by itself"}
    text = f"{line.get('num_tokens', '?')} tokens, {ended.get(str(line.get('stop')), 'ended')}"
    known = tokens(line)
    if known:
        runs = [f"{v} x{len(list(same))}" for v, same in groupby(t.version for t in known)]
        text += f"; written by {', '.join(runs)}"
    gaps = [gap for token in known if (gap := token.gap) is not None]
    if gaps:
        worst = max(range(len(gaps)), key=lambda i: abs(gaps[i]))
        mean = sum(map(abs, gaps)) / len(gaps)
        text += (
            f"\ntrainer - generator log-probability: mean size {mean:.4f}, "
            f"largest {gaps[worst]:+.4f} at token {worst}"
        )
    return text


def _table(known: list[Token], piece: Piece) -> Table:
    table = Table(box=None)
    for name in ("#", "token", "version", "generator", "trainer", "gap"):
        table.add_column(name, justify="left" if name in ("token", "version") else "right")
    for number, token in enumerate(known):
        gap = token.gap
        big = gap is not None and abs(gap) >= _BIG_GAP
        table.add_row(
            str(number),
            Text(visible(piece(token.id), one_line=True)),
            token.version,
            f"{token.logprob:.4f}",
            "–" if token.trainer is None else f"{token.trainer:.4f}",
            "–" if gap is None else f"{gap:+.4f}",
            style="yellow" if big else "",
        )
    return table


def _pieces(plan: Plan) -> Piece:
    """Return the text of a token id, by the tokenizer of the run's first policy."""
    from realnet.roles.models.reference import load_tokenizer

    setting = setting_of(plan, next(iter(plan.shared.get("policy", {})), ""))
    try:
        tokenizer = load_tokenizer(setting.policy, setting.base)
    except (RealnetError, OSError):  # its folder is not there any more
        return lambda token: f"<{token}>"
    special = {tokenizer.eos_id: "<eos>", tokenizer.pad_id: "<pad>"}
    return lambda token: special.get(token) or tokenizer.decode([token])
