"""One run of the stability study: the demo's policy trained on answers that are η versions old.

    ledger gives room -> engine answers all of it -> the oldest batch trains -> next version

The engine finishes whatever admission lets out before the next step. So after the first η steps
every token is exactly η versions old: a trainer-bound run, the most that admission allows. Ledger,
engine, reward and learner are the real ones; only the time between them is taken out.

Knows one configuration at a time. Called by `stability.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from demo_policy import DIRECT, TRAINER, Answer, Demo, Problem, accuracy, load, read_demo, write_all

from realnet.config import read_table
from realnet.roles.ledger import Ledger
from realnet.roles.messages import (
    Group,
    Rollout,
    SampleKey,
    Scored,
    Segment,
    TicketKey,
    Version,
)
from realnet.roles.tasks import addz
from realnet.roles.trainer.learner import Learner, LearnerConfig

NAME = "policy"
EVERY = 10  # steps between measures
KEPT = (
    *("reward", "entropy", "response_tokens", "grad_norm", "clip_fraction", "weight_mean"),
    *("weight_max", "weight_capped", "ess", "kl", "ratio_mean", "truncated", "groups_equal"),
    "tokens_masked",
)


class Setting(NamedTuple):
    """What one run is of. `rule` are keys of `[roles.trainer]` that differ from `TRAINER`'s."""

    algorithm: str
    rule: dict[str, Any]
    eta: int
    warm: int  # which warm start
    seed: int  # of prompts, draws and minibatches
    steps: int = 50


def learner_of(demo: Demo, rule: dict[str, Any], horizon: int) -> Learner:
    """Return a learner of the demo with some keys of its table replaced."""
    table = {k: v for k, v in TRAINER.items() if k != "warm_start"}
    config = read_table(LearnerConfig, {**table, **rule, "device": "cpu"}, "trainer")
    return Learner(demo.policy, config, demo.tokenizer, Path(), horizon=horizon)


def make_warm_start(folder: Path, seed: int) -> None:
    """Train one warm start as the demo does, into `folder`."""
    demo = read_demo(seed=seed)
    config = read_table(LearnerConfig, {**TRAINER, "device": "cpu"}, "trainer")
    learner = Learner(demo.policy, config, demo.tokenizer, Path())
    learner.warm_start(lambda k, progress: addz.demo(seed, k, progress), lambda *_: None)
    learner.save(folder)


def run(setting: Setting, warm: Path) -> dict[str, Any]:
    """Train once; return curves of what was measured on the way."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    demo = read_demo(max_age=setting.eta, seed=setting.seed)
    learner = learner_of(demo, setting.rule, setting.steps)
    learner.load(warm)
    learner.steps = 0
    learner.rng = torch.Generator().manual_seed(setting.seed)
    study = _Study(setting, demo, learner)
    study.measure()
    for step in range(1, setting.steps + 1):
        study.generate()
        study.train()
        if step % EVERY == 0:
            study.measure()
    study.ledger.check()
    return {
        **setting._asdict(),
        "evals": study.evals,
        "curve": study.curve,
        "wall_s": round(time.perf_counter() - start_s, 1),
        "cpu_s": round(time.process_time() - start_cpu_s, 1),
    }


class _Study:
    """The state of one run."""

    def __init__(self, setting: Setting, demo: Demo, learner: Learner) -> None:
        self.setting, self.demo, self.learner = setting, demo, learner
        self.engine = demo.engine(setting.seed)
        self.ledger = Ledger(NAME, batch=demo.policy.batch, max_age=setting.eta)
        self.groups: dict[int, Group] = {}
        self.evals: list[dict[str, float]] = []
        self.curve: list[dict[str, float]] = []
        self.direct: Counter[int] = Counter()  # answers without thinking, by ticket
        self._publish()

    @property
    def version(self) -> Version:
        """The version that the next step starts from."""
        return Version(NAME, 0, self.ledger.steps)

    def _publish(self) -> None:
        load(self.engine, self.learner.weights(), self.version)

    def generate(self) -> None:
        """Answer every ticket that there is room for, with the newest version."""
        group = self.demo.policy.group
        issued = self.ledger.issue(10**9, self.ledger.steps)
        tickets = [t for start, end in issued for t in range(start, end)]
        problems = {t: self.demo.problem(t, seed=self.setting.seed) for t in tickets}
        requests = [self.demo.request(problems[t].prompt) for t in tickets for _ in range(group)]
        answers = write_all(self.engine, requests)
        self.ledger.hand(tickets)
        for i, ticket in enumerate(tickets):
            mine = answers[i * group : (i + 1) * group]
            self.groups[ticket] = self._group(ticket, problems[ticket], mine)
            self.ledger.buffer(ticket)

    def _group(self, ticket: int, problem: Problem, answers: list[Answer]) -> Group:
        key = TicketKey(NAME, ticket)
        head = np.array(self.demo.tokenizer.encode(problem.prompt), np.int32)
        prompt = Segment("prompt", head, np.zeros(0, np.float32))
        scored = []
        for n, answer in enumerate(answers):
            text = self.demo.text(answer)
            self.direct[ticket] += text.startswith(DIRECT)
            written = Segment("model", answer.ids, answer.logprobs, answer.spans, True, 0)
            rollout = Rollout(
                *(SampleKey(key, n), "addz", problem.prompt, text, problem.answer),
                *((prompt, written), answer.stop),
            )
            scored.append(Scored(rollout, self.demo.reward(problem, answer)))
        return Group(key, tuple(scored))

    def train(self) -> None:
        """Take one step with the oldest groups, and publish."""
        chosen = sorted(self.groups)[: self.demo.policy.batch]
        groups = [self.groups.pop(ticket) for ticket in chosen]
        now = self.version
        signs = self.learner.step(groups, now, lambda version: now.number - version.number)
        self.ledger.train(chosen)
        self._publish()
        row = {name: round(float(signs[name]), 5) for name in KEPT}
        row["age"] = signs["age_mean"]
        row["direct"] = sum(self.direct.pop(t) for t in chosen) / signs["samples"]
        self.curve.append(row)

    def measure(self) -> None:
        """Measure held-out problems, drawn and greedy."""
        drawn, greedy = (accuracy(self.demo, self.engine, t) for t in (1.0, 0.0))
        self.evals.append({"step": self.ledger.steps, "p1": drawn, "greedy": greedy})
