"""`realnet chat RUN[@step]`: talk to a checkpoint, by the torch engine in this process.

What is typed goes through the tokenizer's chat template when there is one, turn after turn;
without one each line is a prompt as it stands. Knows checkpoints, engines and terminals. Called by
the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from realnet.cli_runs import RUNS
from realnet.errors import ConfigError
from realnet.observe.visible import visible
from realnet.roles.checkpoints.origin import ONLY, locate
from realnet.roles.messages import Sampling
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.verbs.setting import Setting, setting_of

if TYPE_CHECKING:
    from realnet.roles.verbs.writing import Writer

Messages = list[dict[str, str]]


@click.command()
@click.argument("run", metavar="RUN[@STEP]")
@click.option("--say", "said", multiple=True, help="Say this and end (several times: turns).")
@click.option("--temperature", type=click.FloatRange(0.0), help="0: greedy. Without: the policy's.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer; without: the policy's.")
@click.option("--seed", default=0, show_default=True, help="Of the sampling.")
@click.option("--raw", is_flag=True, help="No chat template, even if there is one.")
@click.option("--policy", default=ONLY, help="Which policy, of a run that trains several.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def verb(
    run: str,
    said: tuple[str, ...],
    temperature: float | None,
    max_tokens: int | None,
    seed: int,
    raw: bool,
    policy: str,
    runs: Path,
) -> None:
    """Talk to the newest checkpoint of a RUN, or to RUN@step, or RUN@best. Ctrl-D ends it."""
    from realnet.roles.verbs.weights import run_weights
    from realnet.roles.verbs.writing import Writer

    origin = locate(run, runs, policy)
    setting = setting_of(origin.plan, origin.policy)
    tokenizer = load_tokenizer(setting.policy, setting.base)
    weights = run_weights(origin, tokenizer)
    writer = Writer(setting, tokenizer, weights, one=True)
    talk = Talk(setting, tokenizer, writer, raw=raw)
    sampling = Sampling(
        temperature=setting.policy.temperature if temperature is None else temperature,
        max_tokens=max_tokens or setting.policy.max_tokens,
        stop_ids=(tokenizer.eos_id,),
    )
    if not said:
        click.echo(f"{weights.origin}; {talk.how}; Ctrl-D ends", err=True)
    for turn, text in enumerate(said or _typed()):
        for piece in talk.answer(text, sampling, seed + turn):
            click.echo(visible(piece), nl=False)
            sys.stdout.flush()
        click.echo()


class Talk:
    """One conversation. Without a chat template nothing is remembered from turn to turn."""

    def __init__(
        self, setting: Setting, tokenizer: Tokenizer, writer: Writer, *, raw: bool
    ) -> None:
        self._setting, self._tokenizer, self._writer = setting, tokenizer, writer
        self._messages: Messages = []
        self.templated = not raw and _has_template(tokenizer)

    @property
    def how(self) -> str:
        """Return in words what becomes of a line."""
        if self.templated:
            return "through the chat template"
        return "each line is a prompt as it stands"

    def answer(self, text: str, sampling: Sampling, seed: int) -> Iterator[str]:
        """Yield the answer piece by piece. Raises ConfigError when there is no room for one."""
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = self._tokenizer.chat(messages) if self.templated else text
        ids = np.asarray(self._tokenizer.encode(prompt), dtype=np.int32)
        context = self._setting.policy.context
        if not 0 < len(ids) < context:
            raise ConfigError(
                f"what was said has {len(ids)} tokens, with all before it; [policy].context = "
                f"{context} leaves no room for an answer"
                if len(ids)
                else "nothing was said: there is nothing to answer"
            )
        room = min(sampling.max_tokens, context - len(ids))
        drawn = Sampling(
            sampling.temperature, max_tokens=room, stop_ids=sampling.stop_ids, seed=seed
        )
        pieces: list[str] = []
        for piece in self._writer.stream(ids, drawn):
            pieces.append(piece)
            yield piece
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


def _has_template(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.chat([{"role": "user", "content": "?"}])
    except ConfigError:
        return False
    return True


def _typed() -> Iterator[str]:
    """Yield lines from the terminal until it ends."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line
