"""A checkpoint of some run, by name: "NAME", "NAME@40", "NAME@best", or a folder for the name.

Without a step, or with "@last", the newest. What is best is read from the run's metrics.jsonl: the
checkpoint with most of what `[run].save.best` names, or pass@1 of the first task that was measured.

Knows the folders of runs; changes nothing in them. Called by the trainer, which forks, by `models`,
for a policy that begins as another run's ("run:NAME@40"), and by the verbs export and replay.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realnet.config import read_table
from realnet.errors import CheckpointError, ConfigError, RunFolderError, listed, nearest
from realnet.observe.record import read_rows
from realnet.roles.checkpoints.best import Best, measured_name, measured_rows
from realnet.roles.checkpoints.checkpoint import Checkpoints, Found
from realnet.roles.checkpoints.meta import Meta, read_meta
from realnet.roles.tables import Policy
from realnet.topology.plan import Plan, read_plan

ONLY = "policy"  # what a topology's one [policy] is called
WEIGHTS = Path("learner", "model.safetensors")  # of a model that was trained whole
RUN = "run:"
_MAX_HEAD_BYTES = 100 * 2**20


class Origin(NamedTuple):
    """A checkpoint that was found: of which run, which policy, and what it is."""

    run: Path
    plan: Plan
    policy: str
    found: Found
    meta: Meta

    @property
    def weights(self) -> Path:
        """Where the weights are, whole: not in shares of ranks, and not with adapters beside them.

        Raises CheckpointError.
        """
        path = self.found.folder / WEIGHTS
        if not path.is_file():
            raise CheckpointError(
                f'{self} was written by the ranks of backend = "fsdp", each its share. Fork it '
                f"with that backend, or name a folder with its export: {self.run / 'export'}"
            )
        if has_adapters(path):
            raise CheckpointError(
                f"{self} was trained with lora: its weights are adapters beside others. Fork it "
                f"(realnet run FILE --from {self.run.name}@{self.found.step}), or name a folder "
                f"with its export: {self.run / 'export'}"
            )
        return path

    def __str__(self) -> str:
        return f"{self.run.name}@{self.found.step} ({self.meta.version})"


def has_adapters(path: Path) -> bool:
    """Tell, by the head of a file of weights, whether adapters are among them."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            names = json.loads(file.read(size)) if size <= _MAX_HEAD_BYTES else ()
    except (OSError, ValueError, struct.error):
        return False  # who reads the weights tells what is wrong with them
    return any(".lora_A." in name for name in names)


def split(text: str) -> tuple[str, str]:
    """Return the run and the step ("" for the newest) of "RUN@step". Raises ConfigError."""
    run, at, step = text.rpartition("@")
    if not at or "/" in step:
        return text, ""
    if not run or not (step in ("best", "last") or step.isdecimal()):
        raise ConfigError(
            f'"{text}" names no checkpoint: write RUN, RUN@step with a number, RUN@best or RUN@last'
        )
    return run, "" if step == "last" else step


def policy_folder(run: Path, policy: str) -> Path:
    """Return where a policy's journal and checkpoints lie in a run's folder."""
    # Several policies in one run keep their journals and checkpoints apart.
    return run if policy == ONLY else run / policy


def policy_of(plan: Plan, policy: str) -> str:
    """Return the policy of a run that is meant: the one of that name, or its only one."""
    names = list(plan.shared.get("policy", {}))
    if policy in names:
        return policy
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        f'the run {plan.name} has no policy "{policy}"; it has: {listed(names)}. Say which is meant'
    )


def locate(text: str, runs: Path, policy: str = ONLY) -> Origin:
    """Return the checkpoint that "RUN@step" names; a run by name lies in `runs`.

    Raises RunFolderError, CheckpointError or ConfigError, saying what there is instead.
    """
    name, step = split(text)
    run = run_folder(name, runs)
    plan = read_plan(run)
    policy = policy_of(plan, policy)
    checkpoints = Checkpoints(policy_folder(run, policy) / "checkpoints", keep=1)
    found = _found(run, plan, checkpoints, step)
    return Origin(run, plan, policy, found, read_meta(found))


def run_folder(name: str, runs: Path) -> Path:
    """Return the folder of a run, by name or by folder. Raises RunFolderError."""
    run = next((p for p in (Path(name), runs / name) if (p / "plan.json").is_file()), None)
    if run is None:
        runs = runs if Path(name).name == name else Path(name).parent
        known = [p.parent.name for p in runs.glob("*/plan.json")]
        missing = Path(name).name
        raise RunFolderError(
            f'there is no run "{missing}" under {runs}.{nearest(missing, known)} '
            f"Runs: {listed(known)}"
        )
    return run.resolve()


def policy_in(plan: Plan, policy: str = ONLY) -> Policy:
    """Return the table of a policy of a run, as it was planned."""
    table = plan.shared["policy"][policy_of(plan, policy)]
    known = {field.encode_name for field in msgspec.structs.fields(Policy)}
    part = {key: value for key, value in table.items() if key in known}
    return read_table(Policy, part, f"{plan.name}/plan.json: [policy]")


def check_origin(text: str, policy: Policy) -> None:
    """Refuse, before a run is begun, an origin that is not there or certainly does not fit.

    Only one named by its folder, as the command line does: where runs lie is not known here.
    Raises as `locate`.
    """
    if not text or not Path(split(text)[0]).is_absolute():
        return
    plan = read_plan(Path(split(text)[0]))
    if len(plan.shared.get("policy", {})) != 1:
        return
    origin = locate(text, Path())
    table = plan.shared["policy"][origin.policy]
    if table.get("model") != policy.model or not policy.model.startswith("new:"):
        return  # folders may have moved: the weights themselves tell
    for key in ("shape", "tokenizer"):
        if table.get(key, "") != getattr(policy, key):
            raise ConfigError(
                f"[policy].{key} = {getattr(policy, key)!r}, but {origin} has {table.get(key)!r}: "
                "its weights do not fit. Write the same, or begin without them"
            )


def _found(run: Path, plan: Plan, checkpoints: Checkpoints, step: str) -> Found:
    steps = [number for number, _ in checkpoints.all()]
    if not steps:
        raise CheckpointError(f"{run} has no checkpoint yet: let it run until it writes its first")
    if step == "best":
        return checkpoints.at(_best(run, plan, steps))
    return checkpoints.at(int(step) if step else steps[-1])


def _best(run: Path, plan: Plan, steps: list[int]) -> int:
    rows = read_rows(run / "metrics.jsonl")
    name = measured_name(str(_save(plan).get("best") or ""), rows)
    best = Best(name)
    best.add_all(measured_rows(rows, name))
    step = best.of(steps)
    if step is None:
        raise CheckpointError(
            f"{run}: none of its checkpoints (steps {', '.join(map(str, steps))}) was measured by "
            f"{name or 'any evaluation'}, so none is best. Name a step. With [run].save.best = "
            '"eval.TASK.pass@1" every version that is measured is saved'
        )
    return step


def _save(plan: Plan) -> dict[str, Any]:
    save = plan.shared.get("run", {}).get("", {}).get("save", {})
    return dict(save) if isinstance(save, dict) else {}
