"""The testing kit itself: schedules are of their seed, strikes hit whom they should, leaks show."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_net import topology

from realnet import ConfigError
from realnet.observe.status import RunStatus, SlotStatus, write_status
from realnet.testing import (
    Fault,
    Leak,
    RealProcesses,
    Simulation,
    no_leaks,
    plan_of,
    running,
    schedule,
    strike,
)

SLOTS = ["worker/0", "worker/1", "sink/0"]
# Says that it is there, and is whatever the words after it say.
IDLE = "import sys; print('here', flush=True); sys.stdin.read()"


def test_a_schedule_is_of_its_seed() -> None:
    faults = schedule(7, SLOTS, num=40)
    assert faults == schedule(7, SLOTS, num=40) != schedule(8, SLOTS, num=40)
    assert {f.what for f in faults} == {"kill", "hang", "cut", "slow", "sever"}
    assert list(faults) == sorted(faults)
    for fault in faults:
        assert 0.5 <= fault.at_s <= 5.0
        assert bool(fault.to) == (fault.what in ("cut", "slow", "sever"))
        assert fault.to != fault.slot
        assert bool(fault.value) == (fault.what != "kill")
    assert {f.what for f in schedule(7, SLOTS, kinds=["kill"])} == {"kill"}


def test_every_kind_of_fault_happens_to_a_simulation(tmp_path: Path) -> None:
    simulation = Simulation(plan_of(topology(tmp_path, num=50), tmp_path), seed=3)
    faults = [
        Fault(1.0, "kill", "worker/0"),
        Fault(1.5, "hang", "worker/1", value=0.5),
        Fault(2.0, "cut", "source/0", "worker/1", 0.5),
        Fault(2.5, "slow", "worker/0", "sink/0", 0.5),
        Fault(3.0, "sever", "worker/1", "helper/0", 0.5),
    ]

    async def story() -> None:
        head = simulation.launch()
        began_s = simulation.loop.time()
        await strike(faults, simulation)
        assert simulation.loop.time() == pytest.approx(began_s + 3.5)
        with pytest.raises(ConfigError, match="'burn': faults are cut, hang, kill, sever, slow"):
            simulation.suffer(Fault(0.0, "burn", "worker/0"))
        while not all(s.state == "up" for s in head.supervisor.slots.values()):
            await asyncio.sleep(0.1)
        await simulation.stop()

    simulation.run(story(), until_s=60.0)
    assert simulation.complaints() == []
    assert "worker/0 is started again (restart 1)" in simulation.said()


async def test_slots_in_one_loop_can_be_killed_alone(tmp_path: Path) -> None:
    async with running(topology(tmp_path), tmp_path) as run:
        await run.until(lambda: run.is_up("worker/0"))
        run.suffer(Fault(0.0, "kill", "worker/0"))
        run.suffer(Fault(0.0, "kill", "worker/0"))  # it is gone: nothing happens
        with pytest.raises(ConfigError, match="'hang' is for simulated runs"):
            run.suffer(Fault(0.0, "hang", "worker/0"))
        await run.until(lambda: "worker/0 died: killed by SIGKILL" in run.events())


@pytest.fixture
def idle(tmp_path: Path):
    """Start processes that look like members of a run in tmp_path, or do not."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", IDLE, *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        assert started[-1].stdout.readline() == "here\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_signals_reach_the_processes_of_that_run_alone(tmp_path: Path, idle) -> None:
    ours = idle("realnet.member", str(tmp_path), "worker/0")
    theirs = idle("realnet.member", str(tmp_path / "other"), "worker/1")
    slots = {
        "worker/0": SlotStatus(state="up", pid=ours.pid),
        "worker/1": SlotStatus(state="up", pid=theirs.pid),  # an old number: another has it now
    }
    write_status(RunStatus("run", os.getpid(), 1, 0.0, slots=slots), tmp_path)
    run = RealProcesses(tmp_path)
    hang = Fault(0.0, "hang", "worker/0", value=0.1)
    striking = asyncio.ensure_future(strike([hang, hang._replace(slot="worker/1")], run))
    while state(ours.pid) != "T":
        await asyncio.sleep(0.01)
    assert state(theirs.pid) != "T"
    await striking
    while state(ours.pid) == "T":
        await asyncio.sleep(0.01)
    await strike([Fault(0.0, "kill", "worker/0"), Fault(0.0, "kill", "worker/1")], run)
    assert ours.wait(20) == -signal.SIGKILL
    assert theirs.poll() is None
    await strike([Fault(0.0, "kill", "worker/0"), Fault(0.0, "kill", "nobody/0")], run)
    with pytest.raises(ConfigError, match="'cut' is for simulated runs"):
        run.suffer(Fault(0.0, "cut", "worker/0", "worker/1"))


async def test_what_is_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realnet.testing.leaks.MOMENT_S", 0.05)
    over = threading.Event()
    with pytest.raises(Leak) as caught:  # noqa: PT012
        async with no_leaks():
            task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
            thread = threading.Thread(target=over.wait, name="stays")
            thread.start()
            process = subprocess.Popen(["sleep", "60"])
            file = (tmp_path / "file").open("w")
    told = rf"task forgotten; thread stays; process {process.pid}: sleep 60; open file \d+: .*/file"
    assert re.search(told, str(caught.value)), caught.value
    over.set()
    thread.join()
    task.cancel()
    file.close()
    process.kill()
    with pytest.raises(Leak, match="ended, and nobody waited for it"), no_leaks():
        child = subprocess.Popen(["true"])
    process.wait()
    child.wait()


async def test_what_is_ending_is_given_a_moment_and_an_error_comes_through() -> None:
    async with no_leaks():
        asyncio.create_task(asyncio.sleep(0.02))  # noqa: RUF006
    with no_leaks():
        threading.Thread(target=threading.Event().wait, args=(0.02,)).start()
    with pytest.raises(ValueError, match="the block's own"), no_leaks():
        raise ValueError("the block's own")
