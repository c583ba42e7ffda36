"""Real processes that are stuck, killed, orphaned or of other code: what the run does of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ranks import TOPOLOGY
from real_run import RealRun

RANKS = Path(__file__).parent.parent / "ranks.py"
RANK = re.compile(
    r"trainer/0(?:\.(\d))?~(\d) is rank (\d) of 3, pid (\d+), env (\d)/3 127\.0\.0\.1:(\d+)"
)
STUCK = """
import time
from realnet import Actor, Config


def silent():
    time.sleep(60)


def long_step(self):
    for i in range(30):  # twice as long as it may make no progress, at least
        time.sleep(0.2)
        self.progress(f"part {i}")


class Stuck(Actor[Config]):
    progress_s = 3.0  # a busy machine stands still for a second now and then
    progress_then = "restart"

    async def run(self) -> None:
        if self.address.incarnation == 1:
            await self.compute(silent)
        if self.address.incarnation == 2:
            time.sleep(60)
        await self.compute(long_step, self)
        self.finish("the long step is done")
"""
NANNY = """
import subprocess
from realnet import Actor, Config


class Nanny(Actor[Config]):
    async def run(self) -> None:
        wait = ["sleep", "1000"]
        pids = [subprocess.Popen(wait, start_new_session=own).pid for own in (False, True)]
        self.event("children " + " ".join(map(str, pids)))
"""
GREEDY = """
import subprocess, sys
from realnet import Actor, Config


class Greedy(Actor[Config]):
    async def run(self) -> None:
        if self.address.incarnation == 1:
            await self.compute(self.take, 200)
        elif self.address.incarnation == 2:  # not itself, but what it starts
            code = "import time; kept = bytes(b'x') * (200 << 20); time.sleep(60)"
            subprocess.Popen([sys.executable, "-c", code])
            await self.clock.sleep(60)
        self.finish("little is enough")

    def take(self, num_mib):
        import time
        kept = b"x" * (num_mib << 20)
        time.sleep(60)
"""


def why(run: RealRun, *options: str) -> str:
    words = [sys.executable, "-P", "-m", "realnet.cli", "why", str(run.folder), *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout


def gone(pids: list[int], budget_s: float = 10.0) -> bool:
    end_s = time.monotonic() + budget_s
    while any(Path(f"/proc/{p}/exe").exists() for p in pids) and time.monotonic() < end_s:
        time.sleep(0.05)
    return not any(Path(f"/proc/{p}/exe").exists() for p in pids)


def gang(run: RealRun, life: int) -> list[tuple[str, ...]]:
    """The ranks of one life that have told of themselves: rank, pid, its RANK, its port."""
    found = [m for e in run.events() if (m := RANK.search(e)) and m[2] == str(life)]
    return [(m[3], m[4], m[5], m[6]) for m in found]


@pytest.mark.parametrize("plain", [False, True], ids=["linux", "plain host"])
def test_a_killed_rank_brings_its_gang_back_under_one_incarnation(
    plain: bool,
    start: Callable[..., RealRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if plain:
        monkeypatch.setenv("REALNET_PLAIN_HOST", "1")
    (tmp_path / "ranks.py").write_text(RANKS.read_text())
    (tmp_path / "net.toml").write_text(TOPOLOGY)
    run = start(tmp_path / "net.toml")
    run.until(lambda: len(gang(run, 1)) == 3)
    assert {r[0] for r in gang(run, 1)} == {r[2] for r in gang(run, 1)} == {"0", "1", "2"}
    run.kill("trainer/0.2")
    run.until(lambda: len(gang(run, 2)) == 3, 30)
    first, second = gang(run, 1), gang(run, 2)
    assert len({r[3] for r in second}) == 1  # they meet at one port
    assert not {r[1] for r in first} & {r[1] for r in second}  # all three are new processes
    assert any("trainer/0.2 died: killed by SIGKILL" in e for e in run.events())
    stacks = why(run, "--stacks")
    for slot in ("head/0", "trainer/0", "trainer/0.1", "trainer/0.2", "asker/0"):
        assert f"== {slot}\n" in stacks
    assert stacks.count("Task @trainer/0.1/0 beat:") == 1
    if not plain:
        assert stacks.count("most recent call first") >= 5
    pids = list(run.members().values())
    if plain:  # nobody but the processes themselves, and the guardian, see that the head is gone
        run.process.kill()
        run.process.wait()
        assert gone(pids)
        return
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(30) == 75
    assert gone(pids)


def test_who_is_stuck_is_restarted_and_a_long_step_is_not(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    net = '[run]\nsuspect = "1s"\nhung = "4s"\n[roles.stuck]\nkind = "stuck.py:Stuck"\n'
    (tmp_path / "net.toml").write_text(net)
    run = start(tmp_path / "net.toml")
    assert run.wait(60) == 0, run.output()
    assert "done: the long step is done" in run.output()
    told = run.events()
    assert sum("is started again" in e for e in told) == 2
    stalled = next(e for e in told if "stuck/0 has made no progress for" in e)
    assert "who waits for whom:" in stalled
    assert any("made no progress" in e and "its stacks: " in e for e in told)
    assert any("has not answered for" in e and "its stacks: " in e for e in told)
    stacks = (run.folder / "attempts" / "1" / "stacks" / "stuck-0.txt").read_text()
    lives = stacks.split("# stuck/0~")
    assert "in silent" in lives[1]
    assert "in run" in lives[2]  # its loop was frozen, and told all the same
    assert "Task " not in lives[2]


def test_nothing_is_left_of_a_killed_head_not_even_what_roles_started(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "nanny.py").write_text(NANNY)
    (tmp_path / "net.toml").write_text('[roles.nanny]\nkind = "nanny.py:Nanny"\n')
    run = start(tmp_path / "net.toml")
    run.until(lambda: any("children" in e for e in run.events()))
    text = next(e for e in run.events() if "children" in e)
    children = [int(word) for word in text.split() if word.isdigit()]
    run.kill("nanny/0")  # the head ends what a dead role leaves, of its session or not
    assert gone(children)
    run.until(lambda: sum("children" in e for e in run.events()) == 2)
    text = [e for e in run.events() if "children" in e][1]
    children = [int(word) for word in text.split() if word.isdigit()]
    assert all(Path(f"/proc/{p}/exe").exists() for p in children)
    run.process.kill()
    run.process.wait()
    assert gone([*children, *run.members().values()])


def test_a_process_of_other_code_is_refused_by_the_record_that_differs(
    start: Callable[..., RealRun], topology: Path
) -> None:
    run = start(topology)
    run.until(lambda: any("100 squares" in e for e in run.events()))
    code = topology.parent / "pipeline.py"
    changed = code.read_text().replace(
        "class Number(Message):\n", "class Number(Message):\n    x: int\n"
    )
    code.write_text(changed)
    run.kill("worker/0")
    assert run.wait(60) == 2, run.output()
    assert "worker/0 cannot go on (host " in run.output()
    assert "worker/0 has other fields in realnet_user_pipeline.Number than" in run.output()
    log = (run.folder / "attempts" / "1" / "logs" / "worker-0.log").read_text()
    assert "has other fields in realnet_user_pipeline.Number" in log
    assert "Traceback" not in log


def test_what_is_killed_from_outside_may_be_tried_again(
    start: Callable[..., RealRun], topology: Path
) -> None:
    run = start(topology, "--set", "roles.helper.restart=false")
    run.until(lambda: any("100 squares" in e for e in run.events()))
    os.kill(run.members()["helper/0"], signal.SIGKILL)
    assert run.wait(60) == 75, run.output()
    assert "helper/0 cannot go on (host " in run.output()
    assert "it may be tried again as it is: go on with: realnet run" in run.output()


def test_who_takes_more_memory_than_it_may_is_started_again(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    net = '[roles.greedy]\nkind = "greedy.py:Greedy"\nmemory = "150MiB"\n'
    (tmp_path / "net.toml").write_text(net)
    run = start(tmp_path / "net.toml")
    assert run.wait(60) == 0, run.output()
    assert "done: little is enough" in run.output()
    told = [e for e in run.events() if "[roles.greedy].memory allows 150" in e]
    assert len({e.partition(" takes ")[2] for e in told}) >= 1
    assert sum("is started again" in e for e in run.events()) == 2
