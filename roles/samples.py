"""A sample as a line of JSON: prompt, answer, reward parts, and for each token who wrote it.

    samples.jsonl          answers to held-out problems (the evaluator's)
    samples.train.jsonl    answers that were trained on (the trainer's), with what the trainer's own
                           model said of each token when the step began

Two files, since each has one writer. Knows records and JSON. Knows nothing of who writes or reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from realnet.roles.messages import Floats, Scored, Segment, Version

EVAL_FILE, TRAIN_FILE = "samples.jsonl", "samples.train.jsonl"
SAMPLED, GREEDY = "sampled", "greedy"  # by chance, or the likeliest token each time
TEXT_CHARS = 4000
MAX_TOKENS = 2048  # tokens of one answer that are kept one by one
_DIGITS = 4


def sample_row(scored: Scored, trainer: Floats | None = None) -> dict[str, Any]:
    """Return what a line holds of one answer.

    `trainer` are log-probabilities of the tokens that the model wrote, in order, from the trainer.
    `versions` are [branch, number, tokens] of runs of tokens.
    """
    rollout = scored.rollout
    written = [segment for segment in rollout.segments if segment.origin == "model"]
    ids = [int(i) for segment in written for i in segment.token_ids]
    row: dict[str, Any] = {
        "task": rollout.task,
        "prompt": rollout.prompt[:TEXT_CHARS],
        "text": rollout.text[:TEXT_CHARS],
        "answer": rollout.answer[:TEXT_CHARS],
        "reward": scored.reward,
        "parts": scored.parts,
        "stop": rollout.stop,
        "fault": scored.fault,
        "sample": rollout.key.sample,
        "num_tokens": len(ids),
        "tokens": ids[:MAX_TOKENS],
        "logprobs": _short(segment.logprobs for segment in written),
        "versions": _spans(written),
    }
    if trainer is not None:
        row["trainer_logprobs"] = _short([trainer])
    return row


def decoding_of(row: Mapping[str, Any]) -> str:
    """Return how the answer of a line was drawn: SAMPLED, as all older lines were, or GREEDY."""
    return str(row.get("decoding", SAMPLED))


def write_rows(path: Path, step: int, version: Version, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows of one step to a file of samples."""
    about = {"step": step, "version": str(version)}
    lines = [json.dumps({**about, **row}, ensure_ascii=False) + "\n" for row in rows]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def _short(arrays: Iterable[Floats]) -> list[float]:
    """Return numbers of all arrays with as many digits as a person reads."""
    joined = np.concatenate([np.zeros(0, np.float32), *arrays])[:MAX_TOKENS]
    return [round(float(value), _DIGITS) for value in joined]


def _spans(written: Iterable[Segment]) -> list[tuple[int, int, int]]:
    return [
        (span.version.branch, span.version.number, span.length)
        for segment in written
        for span in segment.spans
    ]
