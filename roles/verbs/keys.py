"""The keys that decide a training step: those of each attempt of a run, or those with changes.

A run that was resumed may have had other keys in each attempt. With `--set`, the newest keys and
the changes hold for all steps.

Knows plans and tables. Knows nothing of learners or journals. Called by `replay`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from realnet.config import read_table, to_plain
from realnet.errors import ConfigError, RunFolderError
from realnet.roles.tables import Policy, Schedule
from realnet.roles.trainer.learner_config import check_rule
from realnet.roles.trainer.trainer import TrainerConfig
from realnet.roles.verbs.setting import Setting, setting_of
from realnet.topology.merge import NAMED, PLAIN
from realnet.topology.overrides import apply_overrides
from realnet.topology.plan import Plan, read_plan
from realnet.topology.roletable import RoleTable

_POLICY_KEYS = ("max_age", "over_age")


class StepKeys(NamedTuple):
    """What a step depends on besides weights and data."""

    policy: Policy
    trainer: TrainerConfig
    until_steps: int


@dataclass
class Keys:
    """The keys of each attempt; `changed` lists what was asked to be otherwise."""

    policy: str
    role: str
    newest: StepKeys
    attempts: dict[int, StepKeys] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    def of(self, attempt: int) -> StepKeys:
        """Return the keys that hold in an attempt of the run."""
        return self.newest if self.changed else self.attempts.get(attempt, self.newest)

    def plan(self, plan: Plan, name: str) -> Plan:
        """Return the run's plan as this replay carries it out, for its report."""
        role = msgspec.structs.replace(plan.roles[self.role], config=to_plain(self.newest.trainer))
        shared = {**plan.shared, "policy": {**plan.shared["policy"]}}
        shared["policy"][self.policy] = to_plain(self.newest.policy)
        roles = {**plan.roles, self.role: role}
        return msgspec.structs.replace(
            plan, name=name, title=f"{plan.title}, replay {name}", roles=roles, shared=shared
        )


def keys_of(run: Path, plan: Plan, policy: str, overrides: tuple[str, ...]) -> Keys:
    """Return the keys of a run, or those with `--set` applied. Raises ConfigError."""
    setting = setting_of(plan, policy)
    role = _trainer_of(plan, policy)
    if overrides:
        newest = _changed(run, setting, role, overrides)
        check_rule(newest.trainer, newest.policy)
        return Keys(policy, role, newest, changed=overrides)
    attempts = {}
    for folder in sorted((run / "attempts").glob("*")):
        if folder.name.isdigit() and (folder / "plan.json").is_file():
            attempts[int(folder.name)] = _step_keys(setting_of(read_plan(folder), policy))
    return Keys(policy, role, _step_keys(setting), attempts)


def _trainer_of(plan: Plan, policy: str) -> str:
    for name, role in plan.roles.items():
        if role.kind.rpartition(":")[2].lower() == "trainer" and role.policy in ("", policy):
            return name
    raise ConfigError(f"{plan.name}: no role of it trains the policy {policy}")


def _step_keys(setting: Setting) -> StepKeys:
    until = setting.plan.shared.get("run", {}).get("", {}).get("until", {})
    steps = until.get("steps", 0) if isinstance(until, dict) else 0
    return StepKeys(setting.policy, setting.table(TrainerConfig, "trainer"), int(steps))


def _changed(run: Path, setting: Setting, role: str, overrides: tuple[str, ...]) -> StepKeys:
    """Apply overrides to the topology as the run had it, whose presets are not opened yet."""
    for text in overrides:
        key = text.partition("=")[0].replace(" ", "")
        if not _matters(key, role, setting.policy_name):
            raise ConfigError(
                f"--set {key}: a replay generates nothing, so only [roles.{role}], run.until and "
                f"{' and '.join(f'policy.{k}' for k in _POLICY_KEYS)} have an effect"
            )
    path = run / "topology.toml"
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} does not read: {error}") from None
    problems = apply_overrides(tables, {}, overrides, PLAIN, NAMED)
    if problems:
        raise ConfigError("\n".join(problems))
    reserved = {f.encode_name for f in msgspec.structs.fields(RoleTable)} | {"policy"}
    trainer = {k: v for k, v in tables["roles"][role].items() if k not in reserved}
    table = tables.get("policy") or tables["policies"][setting.policy_name]
    names = {f.encode_name for f in msgspec.structs.fields(Schedule)}
    schedule = {k: v for k, v in tables.get("run", {}).items() if k in names}
    return StepKeys(
        read_table(Policy, table, "--set: [policy]"),
        read_table(TrainerConfig, trainer, f"--set: [roles.{role}]"),
        read_table(Schedule, schedule, "--set: [run]").until.steps,
    )


def _matters(key: str, role: str, policy: str) -> bool:
    allowed = [f"{p}.{k}" for p in ("policy", f"policies.{policy}") for k in _POLICY_KEYS]
    return key.startswith((f"roles.{role}.", "run.until")) or key in allowed
