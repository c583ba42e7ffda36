"""The demo's policy and task, read from the topology that `make run` trains, without a run.

Engine, learner, ledger and reward are those of a run; here they are called one after the other, in
one process. What is measured with it: `stability.py` (staleness and algorithms), `rl_learning.py`.

Knows no actors and no wires.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from realnet.config import read_table
from realnet.roles.generator.engine import EngineConfig
from realnet.roles.generator.torch_engine import TorchEngine
from realnet.roles.messages import Delta, Generate, Sampling, Span, Version
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.shape import shape_of
from realnet.roles.models.tokenizer import Tokenizer
from realnet.roles.rewards.functions import exact
from realnet.roles.tables import Policy
from realnet.roles.tasks import addz

TOPOLOGY = Path(__file__).parents[1] / "topologies" / "demo.toml"
HELD_OUT = 192  # problems, as many as the demo measures
DIRECT = "<think></think>"  # how an answer begins that does not think
# The trainer's table of all comparisons: the demo's, with a plain rate that anybody can have.
TRAINER = {"algorithm": "rloo", "lr": 4e-4, "warm_start": {"steps": 480}}


class Problem(NamedTuple):
    """One question and its answer."""

    prompt: str
    answer: str
    forced: str


class Answer(NamedTuple):
    """What was written for one request: tokens, their log-probabilities, who wrote them, end."""

    ids: np.ndarray[Any, Any]
    logprobs: np.ndarray[Any, Any]
    spans: tuple[Span, ...]
    stop: str


@dataclass
class Demo:
    """Tables of the demo."""

    policy: Policy
    tokenizer: Tokenizer
    slots: int

    def problem(self, k: int, *, held_out: bool = False, seed: int = 0) -> Problem:
        """Return the k-th problem."""
        row = addz.row(seed, k, held_out=held_out)
        return Problem(row["question"], row["answer"], row["forced"])

    def engine(self, seed: int, slots: int = 0) -> TorchEngine:
        """Return an engine without weights."""
        shape = shape_of(self.policy, self.tokenizer.vocab_size, Path())
        config = EngineConfig(slots=slots or self.slots, device="cpu")
        return TorchEngine(shape, self.policy, config, seed)

    def request(self, prompt: str, temperature: float = 1.0) -> Generate:
        """Return a request for one answer."""
        ids = np.array(self.tokenizer.encode(prompt), np.int32)
        sampling = Sampling(
            temperature=temperature,
            max_tokens=self.policy.max_tokens,
            stop_ids=(self.tokenizer.eos_id,),
        )
        return Generate(self.policy.model, ids, sampling, np.zeros(0, np.int32))

    def text(self, answer: Answer) -> str:
        """Return an answer as text, without its stop token."""
        ids = answer.ids[:-1] if answer.stop == "stop" else answer.ids
        return self.tokenizer.decode(ids)

    def reward(self, problem: Problem, answer: Answer, head: str = "") -> float:
        """Judge an answer as the demo's rewarder does."""
        return exact(problem.prompt, head + self.text(answer), problem.answer, stop=answer.stop)


def read_demo(**policy: Any) -> Demo:
    """Return the demo's tables, with some fields of `[policy]` replaced."""
    table = tomllib.loads(TOPOLOGY.read_text(encoding="utf-8"))
    settled = read_table(Policy, {**table["policy"], **policy}, "policy")
    return Demo(
        settled,
        load_tokenizer(settled, TOPOLOGY.parent),
        table["roles"]["generator"]["engine"]["slots"],
    )


def load(engine: TorchEngine, weights: Iterable[tuple[str, Any, str]], version: Version) -> None:
    """Let a version write from now on."""
    engine.stage({name: array for name, array, _ in weights}, version)
    engine.swap()


def write_all(engine: TorchEngine, requests: Sequence[Generate], block: int = 8) -> list[Answer]:
    """Write an answer to each request, in their order."""
    deltas: Mapping[int, list[Delta]] = {i: [] for i in range(len(requests))}
    for i, request in enumerate(requests):
        engine.submit(i, request)
    while engine.num_running or engine.num_waiting:
        for i, delta in engine.step(block):
            deltas[i].append(delta)
    return [_joined(found) for found in deltas.values()]


def _joined(deltas: list[Delta]) -> Answer:
    spans = tuple(Span(d.version, len(d.token_ids)) for d in deltas if len(d.token_ids))
    return Answer(
        np.concatenate([d.token_ids for d in deltas]),
        np.concatenate([d.logprobs for d in deltas]),
        spans,
        deltas[-1].finish,
    )


def accuracy(demo: Demo, engine: TorchEngine, temperature: float, *, forced: bool = False) -> float:
    """Return the share of held-out problems answered right, one answer each (0: greedy)."""
    problems = [demo.problem(k, held_out=True) for k in range(HELD_OUT)]
    heads = [p.forced if forced else "" for p in problems]
    asked = [
        demo.request(p.prompt + head, temperature) for p, head in zip(problems, heads, strict=True)
    ]
    judged = [
        demo.reward(problem, answer, head)
        for problem, answer, head in zip(problems, write_all(engine, asked), heads, strict=True)
    ]
    return sum(judged) / len(judged)
