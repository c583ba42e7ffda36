"""TRL's GRPO trainer on the demo's task: the same base, groups, batch, rate, loss and reward.

    trl_grpo.py FOLDER      with task.json; writes times.json and the weights every few steps

One step here is what a step is there: one batch of new answers and two updates with halves of it.
Knows nothing of realnet. Called by `rl_learning.py`, in TRL's own environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

UPDATES = 2  # a step


def reward(answer: list[str], completion_ids: list[list[int]], **rest: Any) -> list[float]:
    """Judge as the demo does, from the tokens: texts come without the marks of thinking."""
    scores = []
    for gold, ids in zip(answer, completion_ids, strict=True):
        ended = bool(ids) and ids[-1] == EOS
        text = tokenizer.decode(ids[:-1] if ended else ids)
        final = text.partition("</think>")[2] if "</think>" in text else text
        good = ended and text.count("</think>") <= 1 and final.strip() == gold
        scores.append(float(good))
    return scores


class Keep(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights every few steps, and when they were there."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every * UPDATES
        self.times: dict[str, float] = {}
        self.start_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The clock starts."""
        self.start_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """An update was done."""
        if state.global_step % self.every == 0:
            step = state.global_step // UPDATES
            self.times[str(step)] = time.perf_counter() - self.start_s
            weights = {
                name: weight.detach().clone().contiguous()
                for name, weight in rest["model"].named_parameters()
            }
            save_file(weights, self.folder / f"{step}.safetensors")


folder = Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
torch.set_num_threads(task["threads"])
tokenizer = AutoTokenizer.from_pretrained(task["base"])
EOS = tokenizer.eos_token_id
model = AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
answers = task["batch"] * task["group"]
config = GRPOConfig(
    output_dir=str(folder / "out"),
    use_cpu=True,
    bf16=False,
    seed=task["seed"],
    max_steps=task["steps"] * UPDATES,
    per_device_train_batch_size=answers // UPDATES,
    steps_per_generation=UPDATES,
    gradient_accumulation_steps=1,
    gradient_checkpointing=False,
    num_generations=task["group"],
    num_iterations=1,
    max_completion_length=task["max_tokens"],
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    epsilon=0.2,
    beta=0.0,
    scale_rewards="none",
    loss_type="dapo",
    learning_rate=task["lr"],
    lr_scheduler_type="constant",
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.0,
    max_grad_norm=0.1,
    shuffle_dataset=False,
    logging_steps=10**6,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
keep = Keep(folder, task["every"])
trainer = GRPOTrainer(
    model=model,
    reward_funcs=reward,
    args=config,
    train_dataset=Dataset.from_list(task["problems"]),
    processing_class=tokenizer,
    callbacks=[keep],
)
trainer.train()
(folder / "times.json").write_text(json.dumps(keep.times), encoding="utf-8")
