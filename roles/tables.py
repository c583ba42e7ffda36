"""The shared tables: what several roles must agree on, written once in a topology.

`[policy]`, `[tasks.X]`, and the roles' part of `[run]`. Knows nothing of records that travel, of
models or of files. Roles and their libraries declare in `shared` which of these they use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from realnet.changes import Fixed, Past
from realnet.config import Config, Seconds, Shared, Steps, doc
from realnet.references import Reference


class Policy(Shared):
    """`[policy]`: what every role of one policy must agree on."""

    table = "policy"

    model: Annotated[
        str,
        doc(
            'a folder with a Hugging Face model, "new:llama" / "new:qwen2", or what another run '
            'trained: "run:NAME@40", "@best", "@last"'
        ),
        Reference("hf", "path", "new", "run"),
        Fixed("the checkpoint's weights are of that model"),
    ]
    tokenizer: Annotated[
        str,
        doc('a folder, "new:chars" or "new:bytes"; empty: the model\'s'),
        Reference("hf", "path", "new"),
        Fixed("weights, and the rollouts in the journal, are about its token ids", fork=False),
    ] = ""
    shape: Annotated[
        dict[str, int | float | bool],
        doc("of a new model: keys of its config"),
        Fixed("the checkpoint's weights have that shape", fork=False),
    ] = {}
    dtype: Annotated[
        Literal["fp32", "bf16"],
        doc("of weights and compute"),
        Fixed("the checkpoint's weights and moments are kept in it"),
    ] = "fp32"
    context: Annotated[int, doc("longest prompt + answer, in tokens", ge=8)] = 1024
    batch: Annotated[int, doc("tickets a step", ge=1)] = 32
    group: Annotated[
        int,
        doc("answers a ticket", ge=1),
        Fixed("tickets that are out, and groups in the journal, have so many answers"),
    ] = 8
    max_age: Annotated[
        int, doc("η: how many versions old a token may be; 0: synchronous", ge=0)
    ] = 1
    over_age: Annotated[
        Literal["mask", "hold", "requeue", "drop", "allow"],
        doc(
            "tokens older than η: carry no gradient; never come to be, since steps wait for the "
            "oldest tickets; their group is answered again, or dropped; are trained on"
        ),
    ] = "mask"
    max_tokens: Annotated[int, doc("longest answer, in tokens", ge=1)] = 256
    temperature: Annotated[float, doc("of sampling, in training", gt=0)] = 1.0
    curriculum: Annotated[
        str,
        doc(
            "your own function that says what the next ticket asks, instead of weights: of its "
            "number, the tasks' sizes and, if it takes a third argument, their rewards of late"
        ),
        Reference("code"),
        Fixed("which problem a ticket's number names follows from it"),
    ] = ""
    seed: Annotated[
        int,
        doc("of everything random in this policy"),
        Fixed("the checkpoint goes on with the random state that came of it"),
    ] = 0

    @classmethod
    def binds(cls, table: Mapping[str, Any]) -> str:
        """A policy is kept under its name."""
        return "ledger, journal and checkpoints of a policy are kept under its name"

    def going_on(self, base: Path) -> Policy:
        """Return the policy without what another run trained: that was taken at the beginning."""
        from realnet.roles.models.reference import described  # which knows these tables

        return described(self, base)


class Answer(Config):
    """`tasks.X.answer`: where the reference answer stands in a row of data."""

    column: Annotated[str, doc("the column")] = "answer"
    after: Annotated[str, doc("only what follows the last of these in the column")] = ""


_ORDER = "which problem a ticket's number names follows from it, and tickets are trained once"


class Task(Shared):
    """`[tasks.X]`: where problems come from, how they are asked, and what a good answer is."""

    table = "tasks"
    many = True

    reward: Annotated[dict[str, float], doc('{ math = 1.0, "file.py:function" = 0.1 }')]
    data: Annotated[
        str,
        doc('"./file.jsonl" beside the topology, "new:NAME" or your own "file.py:name" (made)'),
        Reference("hf", "path", "new", "code"),
        Fixed(_ORDER),
    ] = ""
    prompt: Annotated[str, doc('template with {column}s, or the path of one ("prompts/x.txt")')] = (
        "{question}"
    )
    chat: Annotated[bool, doc("put the prompt through the tokenizer's chat template")] = False
    columns: Annotated[dict[str, str], doc("name in the template = column of the data")] = {}
    answer: Annotated[Answer, doc('{ column = "answer", after = "####" }')] = Answer()
    use: Annotated[
        Literal["train", "eval", "demo", "derived"],
        doc(
            "trained on; measured on held-out problems; only shown in the warm start; asked about "
            "what others wrote"
        ),
        Fixed(_ORDER),
    ] = "train"
    policy: Annotated[
        str, doc("the [policies.X] that is asked this; empty: whichever there are"), Fixed(_ORDER)
    ] = ""
    weight: Annotated[float, doc("share of this task in the mix", gt=0), Fixed(_ORDER)] = 1.0
    limit: Annotated[
        int, doc("use only the first so many problems; 0: all", ge=0), Fixed(_ORDER)
    ] = 0
    seed: Annotated[int, doc("of the order (and of problems made on the spot)"), Fixed(_ORDER)] = 0
    temperature: Annotated[float, doc("of sampling, in evaluation (0: greedy)", ge=0)] = 1.0
    samples: Annotated[int, doc("answers a problem, in evaluation", ge=1)] = 1
    greedy: Annotated[bool, doc("evaluation also asks for one answer without chance")] = True

    @classmethod
    def binds(cls, table: Mapping[str, Any]) -> str:
        """A task that is trained on decides what tickets ask; a measured one does not."""
        trained = table.get("use", "train") == "train"
        return "the order of problems follows from all tasks that are trained on" if trained else ""

    def __post_init__(self) -> None:
        """Refuse a task without problems."""
        if not self.data and self.use != "derived":
            raise ValueError('data is missing: a file of problems, or "new:NAME" (made)')


class Save(Config):
    """`run.save`: when checkpoints are written and how many stay."""

    every: Annotated[Steps, doc('for example "20 steps"')] = Steps(20)
    time: Annotated[
        Seconds | None, doc('as well when so long ago the last one was written: "15min"')
    ] = None
    keep: Annotated[int, doc("checkpoints that stay: the newest so many", ge=1)] = 2
    best: Annotated[
        str,
        doc(
            'what the best checkpoint has most of, "eval.TASK.pass@1": it stays as well, and every '
            "version that is measured is saved; empty: only the newest stay"
        ),
    ] = ""
    journal: Annotated[
        Literal["needed", "all"],
        doc("rollouts that stay: those a resume may need, or all, so that a run can be replayed"),
    ] = "needed"
    export: Annotated[Literal["hf", "none"], doc("write a Hugging Face folder at the end")] = "hf"

    def __post_init__(self) -> None:
        """Refuse a checkpoint every no steps."""
        if self.every < 1:
            raise ValueError('every = 0: write at least "1 steps"')
        if self.time is not None and not self.time > 0:
            raise ValueError('time = 0: write for example "15min", or leave it out')


class Until(Config):
    """`run.until`: the run ends when the first of these is reached."""

    steps: Annotated[int, doc("training steps", ge=1)] = 100
    time: Annotated[Seconds | None, doc('wall time, for example "3h"')] = None


class Schedule(Shared):
    """`[run]`: how long, how often measured, how often saved."""

    table = "run"

    until: Annotated[Until, doc('{ steps = 300, time = "3h" }')] = Until()
    eval: Annotated[Steps, doc('how often held-out tasks are measured: "10 steps"')] = Steps(10)
    save: Annotated[Save, doc('{ every = "20 steps", keep = 3 }')] = Save()
    track: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...],
        doc("where the vital signs go besides metrics.jsonl; each needs its package"),
    ] = ()
    origin: Annotated[
        str,
        doc(
            'the run whose weights this one begins with: "NAME", "NAME@40" or "NAME@best", or a '
            "folder instead of the name (what `realnet run --from` writes); empty: none"
        ),
        Past("the run was begun already"),
    ] = msgspec.field(default="", name="from")

    def __post_init__(self) -> None:
        """Refuse measuring every no steps."""
        if self.eval < 1:
            raise ValueError(
                'eval = 0: write at least "1 steps"; to measure nothing, [roles] evaluator = false'
            )


# ---------------------------------------------------------------- training


class Lora(Config):
    """`lora`: adapters of low rank are trained, and nothing else (needs peft)."""

    rank: Annotated[int, doc("of the two matrices of an adapter; 0: no adapters", ge=0)] = 0
    alpha: Annotated[int, doc("what an adapter adds counts alpha / rank times", ge=1)] = 16
    targets: Annotated[
        tuple[str, ...],
        doc('matrices with adapters, by the ends of their names ("q_proj"); []: all in the blocks'),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse fields that have no effect."""
        if not self.rank and self.targets:
            raise ValueError(f"lora.targets = {list(self.targets)} without lora.rank: give a rank")
