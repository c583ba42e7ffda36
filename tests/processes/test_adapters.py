"""A run that trains adapters: they alone cross to another host, through deaths and a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_run import RealRun

pytest.importorskip("peft")
DEMO = Path(__file__).parent.parent.parent / "topologies" / "demo.toml"
THERE = 'env = { REALNET_HOST = "there" }'
TOPOLOGY = f"""
extends = "{DEMO}"
[run]
until = {{ steps = 6 }}
eval  = "3 steps"
save  = {{ every = "2 steps", keep = 2 }}
[policy]
batch = 8
group = 4
[tasks.addz]
reward = {{ "rewards.py:parity" = 1.0 }}
[tasks.addz_test]
limit = 4
[tasks]
addz_test_forced = false
[roles.generator]
count = 2
{THERE}
[roles.relay]
{THERE}
[roles.trainer]
lora = {{ rank = 2, alpha = 8, targets = ["q_proj", "v_proj"] }}
warm_start = {{ steps = 5 }}
canary = 1
"""
REWARD = '''
def parity(prompt, response, answer, **more):
    """Some answers are good and some are not, whatever the policy knows."""
    return float(len(response) % 2)
'''


def moved(run: RealRun, actor: str, what: str) -> list[tuple[bool, int]]:
    """What an actor took in, in order: whether it was a base, and its bytes."""
    rows: list[dict[str, Any]] = [r for r in run.rows() if r["actor"] == actor and what in r]
    return [(bool(row["base"]), int(row["bytes"])) for row in rows]


@pytest.mark.timeout(300)
def test_adapters_alone_cross_to_the_generators_host(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "run.toml").write_text(TOPOLOGY)
    run = start(tmp_path / "run.toml")
    run.until(lambda: run.step() >= 2, 120)
    run.kill("trainer/0")
    run.until(lambda: any("resumed at step" in e for e in run.events()), 60)
    run.until(lambda: run.step() >= 4, 120)
    run.kill("generator/1")
    assert run.wait(180) == 0, run.output()
    committed = moved(run, "parameter_server/0", "check_s")
    fetched = moved(run, "relay/0", "fetch_s")
    for rows in (committed, fetched):
        assert [base for base, _ in rows].count(True) == 1, "though the trainer lived twice"
        assert rows[0][0], "before the first version"
    (base,) = [size for of, size in committed if of]
    versions = {size for of, size in committed if not of}
    assert len(versions) == 1
    assert sum(versions) < base / 20
    assert {size for of, size in fetched if not of} == versions
    proved = [r for r in run.rows() if r["actor"].startswith("generator/") and "canary" in r]
    assert {r["actor"] for r in proved} == {"generator/0", "generator/1"}
    assert max(r["canary"] for r in proved) < 1e-4, "and the digests of the whole were the same"
    assert any("eval/addz_test/pass@1" in row for row in run.rows()), "a pinned version was written"
    again = start(tmp_path / "run.toml", "--resume", "--set", "run.until.steps=8")
    assert again.wait(180) == 0, again.output()
    committed = moved(again, "parameter_server/0", "check_s")
    assert [base for base, _ in committed].count(True) == 2, "memory vanishes with a run"
    assert {size for of, size in committed if not of} == versions


GANG = """
extends = "./run.toml"
[run]
until = { steps = 4 }
[roles.relay]
env = false
[roles.generator]
count = 1
env = false
[roles.parameter_server]
links = ["gloo", "shm"]
[roles.trainer]
ranks = 2
backend = "fsdp"
"""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_gang_writes_one_base_and_every_version_has_the_digest_that_it_says(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    """Each version is a canary: generators merge what the ranks wrote to the trainer's digest."""
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "run.toml").write_text(TOPOLOGY)
    (tmp_path / "gang.toml").write_text(GANG)
    run = start(tmp_path / "gang.toml")
    run.until(lambda: run.step() >= 1, 200)
    run.kill("trainer/0.1")  # the gang begins anew, and its base is there already
    assert run.wait(300) == 0, run.output()
    committed = moved(run, "parameter_server/0", "check_s")
    assert [base for base, _ in committed].count(True) == 1
    proved = [r for r in run.rows() if r["actor"] == "generator/0" and "canary" in r]
    assert len(proved) >= 3
    assert max(r["canary"] for r in proved) < 1e-4
