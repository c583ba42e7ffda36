"""Wall seconds to an accuracy: realnet in its two modes and TRL, from one warm start.

All train the same base on the same task with the same group size, batch, rates and loss. Weights
are kept every few steps and measured afterwards, by one engine on the same held-out problems, so
that nobody pays for being measured. Time counts from when the first answers are asked for; loading
models and starting processes is left out for all.

Called by `rl_demo.py` and `rl_trl.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from demo_policy import TOPOLOGY, TRAINER, Demo, accuracy, load, read_demo
from stability_run import learner_of, make_warm_start

from realnet.roles.messages import Version
from realnet.roles.trainer import learner_files

EVERY = 5  # steps between weights that are kept
SAMPLES = 4  # answers a held-out problem
TARGET = 0.75  # pass@1, drawn at temperature 1: what the demo has to reach


class Point(NamedTuple):
    """Accuracy of the weights after so many steps, and when they were there."""

    step: int
    seconds: float
    accuracy: float


def make_base(folder: Path, seed: int) -> Path:
    """Return a Hugging Face folder with the warm start of a seed, made once."""
    warm, base = folder / "warm" / str(seed), folder / "base" / str(seed)
    if not warm.is_dir():
        make_warm_start(warm, seed)
    if not base.is_dir():
        learner = learner_of(read_demo(seed=seed), {}, 0)
        learner.load(warm)
        learner.export(base)
    return base


def train_realnet(work: Path, base: Path, max_age: int, steps: int, seed: int) -> list[Point]:
    """Run the demo's topology from a base without a warm start; return its curve."""
    sets = (
        f'policy.model="{base}"',
        f'policy.tokenizer="{base}"',
        "policy.shape=false",
        f"policy.max_age={max_age}",
        f"policy.seed={seed}",
        f"tasks.addz.seed={seed}",
        f"run.until.steps={steps}",
        f'run.save={{every="{EVERY} steps", keep=1000, export="none"}}',
        "run.report=false",
        f"roles.trainer.lr={TRAINER['lr']}",
        'roles.trainer.schedule="constant"',
        "roles.trainer.lr_end=0",
        "roles.trainer.warm_start.steps=0",
        "roles.evaluator=false",
        "wires.eval=false",
        "wires.judge=false",
        # two cores: three light roles in one process send each other records, not bytes
        'roles.prompter.place="generator"',
        'roles.rewarder.place="generator"',
    )
    told = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-P", "-m", "realnet.cli", "run", str(TOPOLOGY), "--runs", str(work)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, *told], env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    run = next(work.glob("*/metrics.jsonl")).parent
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    mine = {row["step"]: row for row in rows if row["actor"] == "trainer/0" and "step_s" in row}
    first = mine[1]
    start_s = first["time_s"] - first["publish_s"] - first["step_s"] - first["wait_s"]
    found = {0: (0.0, base / "model.safetensors")}
    for folder in sorted((run / "checkpoints").glob("step_*")):
        step = int(folder.name.removeprefix("step_"))
        if step in mine:
            weights = folder / "learner" / learner_files.MODEL
            found[step] = (mine[step]["time_s"] - start_s, weights)
    return measure(found)


def train_trl(
    work: Path, python: Path, base: Path, steps: int, seed: int, threads: int
) -> list[Point]:
    """Run TRL's GRPO from the same base; return its curve."""
    demo = read_demo()
    task = {
        "base": str(base),
        "steps": steps,
        "every": EVERY,
        "seed": seed,
        "batch": demo.policy.batch,
        "group": demo.policy.group,
        "max_tokens": demo.policy.max_tokens,
        "lr": TRAINER["lr"],
        "threads": threads,
        "problems": [
            demo.problem(k, seed=seed)._asdict() for k in range(demo.policy.batch * steps)
        ],
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "task.json").write_text(json.dumps(task), encoding="utf-8")
    program = Path(__file__).parent / "peers" / "trl_grpo.py"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    env.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [str(python), str(program), str(work)], env=env, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{program}: {ended.stdout[-1000:]}{ended.stderr[-3000:]}")
    said = json.loads((work / "times.json").read_text(encoding="utf-8"))
    found = {0: (0.0, base / "model.safetensors")}
    for step, seconds in said.items():
        found[int(step)] = (seconds, work / f"{step}.safetensors")
    return measure(found)


def measure(found: dict[int, tuple[float, Path]]) -> list[Point]:
    """Measure weights on held-out problems. `found`: step -> (seconds, file)."""
    from safetensors.numpy import load_file

    demo: Demo = read_demo()
    engine = demo.engine(seed=1)
    points = []
    for number, (step, (seconds, path)) in enumerate(sorted(found.items())):
        weights = [(name, array, "float32") for name, array in load_file(path).items()]
        load(engine, weights, Version("policy", 0, number))
        share = sum(accuracy(demo, engine, 1.0) for _ in range(SAMPLES)) / SAMPLES
        points.append(Point(step, round(seconds, 2), round(share, 4)))
    return points


def seconds_to(points: list[Point], target: float) -> float | None:
    """Return when a curve first reached an accuracy, along straight lines; None: it did not."""
    before = None
    for point in points:
        if point.accuracy >= target:
            if before is None:
                return point.seconds
            share = (target - before.accuracy) / (point.accuracy - before.accuracy)
            return before.seconds + share * (point.seconds - before.seconds)
        before = point
    return None
