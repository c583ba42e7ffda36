"""`realnet replay RUN`: train again from the rollouts in the journal, without generating any.

The same batches in the same order from the same checkpoint: with the keys of the run the same
weights, bit for bit on one CPU thread. With a changed key of the loss or the optimizer: what the
run's curves would have been on the run's own data. Each replay has a folder of its own inside the
run's, with rows, a report, and a checkpoint of its end.

Reads the run, changes nothing of it. Called by the command line.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import torch

from realnet.cli_runs import RUNS
from realnet.cli_topology import set_option
from realnet.errors import CheckpointError
from realnet.observe.record import Record, read_rows
from realnet.roles.checkpoints.checkpoint import Checkpoints
from realnet.roles.checkpoints.meta import Meta, check_tokens, read_meta
from realnet.roles.checkpoints.origin import ONLY, locate, policy_folder, policy_of
from realnet.roles.models.reference import described, load_tokenizer
from realnet.roles.trainer.learner import Learner, NonFinite
from realnet.roles.trainer.learner_saved import Saved
from realnet.roles.trainer.tape import Taken, Tape, first_replayable
from realnet.roles.verbs.keys import Keys, keys_of
from realnet.roles.verbs.setting import open_run
from realnet.topology import Plan
from realnet.topology.plan import write_plan

_COMPARED = ("loss", "grad_norm", "kl", "clip_fraction", "ess", "kl_ref")


class Said(NamedTuple):
    """What the run wrote down of its steps: the row of each, and the last one."""

    rows: dict[int, dict[str, Any]]
    last: int


@click.command()
@click.argument("run", metavar="RUN[@STEP]", required=False)
@set_option
@click.option("--steps", default=0, type=click.IntRange(0), help="At most so many; 0: all.")
@click.option("--policy", default=ONLY, help="Which policy, of a run that trains several.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def replay(
    run: str | None, overrides: tuple[str, ...], steps: int, policy: str, runs: Path
) -> None:
    """Train again on the journaled rollouts of RUN, from its oldest usable checkpoint or @STEP.

    --set changes keys of [roles.trainer], [policy].max_age and over_age, and run.until: whatever
    does not change what was generated.
    """
    folder, plan, step = open_run(run, runs)
    policy = policy_of(plan, policy)
    mine = policy_folder(folder, policy)
    oldest = first_replayable(mine)
    begin = oldest if step is None else locate(f"{folder}@{step}", runs, policy).found
    if begin.step < oldest.step:
        raise CheckpointError(
            f"{folder}: the journal after step {begin.step} was trimmed; it is whole from step "
            f"{oldest.step} on: realnet replay {folder.name}@{oldest.step}"
        )
    said = _said(folder, mine)
    tape = Tape(mine, begin, policy, said.last)
    try:
        if tape.last <= begin.step:
            raise CheckpointError(f"{folder}: no step was taken after checkpoint {begin.step}")
        keys = keys_of(folder, plan, policy, overrides)
        click.echo(_what(folder, tape, steps))
        Replay(folder, plan, tape, said, keys).play(steps)
    finally:
        tape.close()


class Replay:
    """One replay: a learner that goes through a tape, and the folder that it fills."""

    def __init__(self, run: Path, plan: Plan, tape: Tape, said: Said, keys: Keys) -> None:
        self._run, self._tape, self._said, self._keys = run, tape, said, keys
        replays = policy_folder(run, tape.policy) / "replays"
        number = 1 + max((int(p.name) for p in replays.glob("*") if p.name.isdigit()), default=0)
        self.folder = replays / str(number)
        self.folder.mkdir(parents=True)
        write_plan(keys.plan(plan, self.folder.name), self.folder)
        self._base = Path(plan.base)
        self._began_s = time.monotonic()
        self._record = Record(self.folder, self._began_s, 1)
        self._attempt = -1
        self._learner: Learner
        self._rows: dict[int, dict[str, float]] = {}

    def play(self, most: int) -> None:
        """Take the steps, compare with the run's checkpoints on the way, and tell the end."""
        step = self._tape.begin.step
        try:
            self._load()
            for taken in self._tape.steps(most):
                self._use_keys_of(taken.step)
                try:
                    self._take(taken)
                except NonFinite as error:
                    self._tell(f"step {taken.step} is not taken, and nothing after it: {error}")
                    break
                step = taken.step
                self._compare(step)
            self._save(step)
        finally:
            self._record.close()
        for line in self._summary():
            click.echo(line)
        click.echo(f"{self.folder}: rows, and checkpoint {step}  (realnet report {self.folder})")

    def _make(self, attempt: int) -> Learner:
        self._attempt = attempt
        keys = self._keys.of(attempt)
        tokenizer = load_tokenizer(keys.policy, self._base)
        policy = described(keys.policy, self._base)  # weights come from the run's own checkpoint
        return Learner(policy, keys.trainer, tokenizer, self._base, keys.until_steps)

    def _load(self) -> None:
        begin = self._tape.begin
        self._learner = self._make(self._attempt_of(begin.step + 1))
        check_tokens(read_meta(begin), self._learner.tokens, begin.folder)
        self._learner.load(begin.folder / "learner")
        # At step 0 the learner keeps its own beginning as the reference: not in the run's folder.
        self._learner.refer(self.folder if begin.step == 0 else self._run_folder)

    def _use_keys_of(self, step: int) -> None:
        """Go on with other keys where the run did, as a resume does: through files."""
        attempt = self._attempt_of(step)
        if attempt == self._attempt or self._keys.of(attempt) == self._keys.of(self._attempt):
            return
        kept = self.folder / "between"
        self._learner.save(kept)
        self._learner = self._make(attempt)
        self._learner.load(kept)
        shutil.rmtree(kept)
        began = self.folder if self._tape.begin.step == 0 else self._run_folder
        self._learner.refer(began)
        self._tell(f"from step {step} on with the keys of attempt {attempt}")

    @property
    def _run_folder(self) -> Path:
        return policy_folder(self._run, self._tape.policy)

    def _attempt_of(self, step: int) -> int:
        return int(self._said.rows.get(step, {}).get("attempt", 1))

    def _take(self, taken: Taken) -> None:
        start_s = time.monotonic()
        signs = self._learner.step(
            taken.groups, taken.version, lambda version: self._tape.age(version, taken.version)
        )
        now_s = time.monotonic()
        row = {"step": taken.step, **signs, "step_s": now_s - start_s}
        self._rows[taken.step] = row
        self._record.write("trainer/0", "metrics", now_s, row)

    def _compare(self, step: int) -> None:
        """Tell whether the weights are those of the run's checkpoint, when it has one here."""
        path = self._run_folder / "checkpoints" / f"step_{step:06d}" / "learner"
        if self._keys.changed or not path.is_dir():
            return
        if self._keys.of(self._attempt).trainer.backend == "fsdp":
            apart = largest_difference(self._learner, path)
            self._tell(
                f"step {step}: this one process and the run's gang, which adds up in another "
                f"order, differ by at most {apart:.2g} in a weight",
                apart=apart,
            )
            return
        same = same_weights(self._learner, path)
        words = "the same weights, bit for bit, as" if same else "NOT the same weights as"
        self._tell(f"step {step}: {words} the run's checkpoint", same=same)
        if not same:
            threads = self._keys.of(self._attempt).trainer.threads
            self._tell(
                f"bits repeat on one kind of processor, with one thread (it has threads = "
                f"{threads}), the same versions of torch and realnet, and the kernels of "
                "`make kernels` both times or neither"
            )

    def _save(self, step: int) -> None:
        """Keep the end, so that it can be exported, or a run forked from it."""
        tape = self._tape
        version = tape.version(step)
        meta = Meta(
            *(tape.policy, version.branch, step, 0, 0.0, "", self._learner.tokens),
            origin=f"replay of {self._run.name}@{tape.begin.step}",
        )
        small = {"meta.json": msgspec.json.encode(meta), "lineage.msgpack": tape.lineage.snapshot()}
        folder = policy_folder(self.folder, tape.policy) / "checkpoints"
        Checkpoints(folder, keep=1).save(
            step, small, lambda part: self._learner.save(part / "learner")
        )

    def _tell(self, text: str, **fields: Any) -> None:
        click.echo(text)
        self._record.write("head/0", "event", time.monotonic(), {"text": text, **fields})

    def _summary(self) -> list[str]:
        """Return run and replay side by side: means over the steps that both have."""
        both = [step for step in self._rows if step in self._said.rows]
        if not both:
            return []
        lines = [f"means over {len(both)} steps       run      replay   largest difference"]
        for name in _COMPARED:
            pairs = [(self._said.rows[s].get(name), self._rows[s].get(name)) for s in both]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                run, mine = (sum(column) / len(known) for column in zip(*known, strict=True))
                apart = max(abs(a - b) for a, b in known)
                lines.append(f"{name:<20} {run:>12.5g} {mine:>11.5g} {apart:>12.3g}")
        return lines


def same_weights(learner: Learner, folder: Path) -> bool:
    """Tell whether a learner's weights are, bit for bit, those saved in a folder."""
    saved, own = Saved(folder).raw, learner.kept()
    return saved.keys() == own.keys() and all(
        torch.equal(_bits(saved[name]), _bits(own[name])) for name in saved
    )


def largest_difference(learner: Learner, folder: Path) -> float:
    """Return how far a weight of a learner is from that saved in a folder, at the most."""
    saved = Saved(folder).raw
    own = {name: weight.detach().cpu() for name, weight in learner.kept().items()}
    if saved.keys() != own.keys():
        return float("inf")
    apart = [(saved[n].to(w.dtype).double() - w.double()).abs().max() for n, w in own.items()]
    return max((float(most) for most in apart), default=0.0)


def _bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().cpu().flatten().view(torch.uint8)


def _said(run: Path, mine: Path) -> Said:
    """Return the trainer's rows of the steps that were not undone."""
    rows: dict[int, dict[str, Any]] = {}
    last = max((step for step, _ in Checkpoints(mine / "checkpoints", keep=1).all()), default=0)
    newest = 0
    for row in read_rows(run / "metrics.jsonl"):
        step = row.get("step")
        if isinstance(step, int) and "grad_norm" in row:
            rows = {s: r for s, r in rows.items() if s < step}
            rows[step] = row
            newest = step
    return Said(rows, max(last, newest))


def _what(run: Path, tape: Tape, most: int) -> str:
    begin = tape.begin.step
    last = min(tape.last, begin + most) if most else tape.last
    text = f"{run.name}: steps {begin + 1} to {last}, from checkpoint {begin}"
    if begin:
        text += (
            f" (the journal before it was trimmed; [run].save.journal = {json.dumps('all')} keeps "
            "whole runs)"
        )
    return text
