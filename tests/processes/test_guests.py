"""Guests of real runs: by folder and by key, in any loop, in processes of their own; killed too."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from click.testing import CliRunner
from real_run import RealRun, ready
from small_net import FLOOD

import realnet
from realnet.cli import main
from realnet.topology.kinds import load_object

TCP = ("--set", 'run.transport="tcp"')
IPC_CURVE = ("--set", 'run.security="curve"')
DOCS = Path(__file__).parents[2] / "docs" / "embedding.md"
Start = Callable[..., RealRun]

COUNTING = """

class CountingConfig(Config):
    num: int = 0


class Counting(Actor[CountingConfig]):
    squares = Inlet(Square, window=8)

    async def start(self) -> None:
        self.seen: dict[int, int] = {}

    @squares.handler
    async def on_square(self, item: Delivery[Square]) -> None:
        value = item.body.value
        self.seen[value] = self.seen.get(value, 0) + 1
        if len(self.seen) == 100:
            self.event("100 squares")
        if len(self.seen) == self.config.num:
            self.event(f"{len(self.seen)} came, {sum(self.seen.values())} times")
        # The work lasts until somebody has come and gone.
        await self.clock.sleep(0 if (self.run_info.base / "gone").exists() else 0.05)
"""


@pytest.fixture
def roles(tmp_path: Path, topology: Path) -> Any:
    """The records and roles of the run, under the one name that they have in this process."""
    names = ("Scale", "Count", "Level", "Worker")
    found = {n: load_object(f"pipeline.py:{n}", tmp_path, "test") for n in names}
    return SimpleNamespace(**found)


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run Python programs beside pipeline.py, in processes of their own."""
    started: list[subprocess.Popen[str]] = []

    def begin(text: str, *arguments: str) -> subprocess.Popen[str]:
        path = tmp_path / f"script-{len(started)}.py"
        path.write_text(text)
        started.append(
            subprocess.Popen(
                [sys.executable, str(path), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])},
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def command(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code != 0
    return result.output


def goes_on(run: RealRun) -> None:
    def squares() -> int:
        return max((int(e.split()[0]) for e in run.events() if "squares since" in e), default=0)

    now = squares()
    run.until(lambda: squares() > now)


def stop(run: RealRun) -> None:
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.output()


def told(run: RealRun, text: str) -> None:
    run.until(lambda: any(text in e for e in run.events()))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("how", [(), TCP, IPC_CURVE], ids=["ipc", "tcp", "ipc-curve"])
def test_by_folder_in_a_loop_of_somebody_else_and_nothing_stays(
    start: Start, topology: Path, roles: Any, how: tuple[str, ...], loop: Any
) -> None:
    run = start(topology, *how)
    run.until(lambda: ready(run))
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}

    async def visit(name: str) -> None:
        async with realnet.Node(run.folder, name=name) as node:
            assert (await node.ask("helper", roles.Scale(3))).factor == 1
            assert [f.factor async for f in node.stream("helper", roles.Count(3))] == [0, 1, 2]
            assert (await (await node.follow("helper", roles.Level)).get()).level == 7
            run.until(lambda: name in command("ls", "--runs", str(run.folder.parent)))
            assert f"{name}/0" in command("top", str(run.folder), "--once")

    async def visits() -> tuple[int, int]:
        await visit("first")
        gc.collect()
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        await asyncio.gather(visit("one"), visit("two"))
        gc.collect()
        assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return before

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(visits())
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    told(run, "the guest two is gone: it left")
    text = (run.folder / "keys" / "guests.json").read_text() if how else "{}"
    assert json.loads(text) == {}  # what a guest granted itself is gone with it
    goes_on(run)
    assert not any("refused" in e or "died" in e for e in run.events())
    stop(run)


CLIENT = """
import asyncio, sys, realnet
from pipeline import Level, Scale

async def main(key: str, join_s: float = 60.0) -> None:
    async with realnet.Node(key=key, join_s=join_s) as node:
        factor = await node.ask("helper", Scale(3))
        level = await node.follow("helper", Level)
        print("in", node.name, factor.factor, (await level.get()).level, flush=True)
        print("over:", await node.wait(), flush=True)

try:
    asyncio.run(main(sys.argv[1], *map(float, sys.argv[2:])))
except realnet.RealnetError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.timeout(300)
def test_by_a_granted_key_dialling_out_until_it_is_revoked(
    start: Start,
    topology: Path,
    tmp_path: Path,
    scripts: Callable[..., subprocess.Popen[str]],
) -> None:
    run = start(topology, *TCP)
    run.until(lambda: ready(run))
    folder, key = str(run.folder), tmp_path / "laptop.key"
    assert "enters run as laptop" in command("grant", folder, "--as", "laptop", "--out", str(key))
    assert key.stat().st_mode & 0o777 == 0o600
    assert "choose another file" in refused("grant", folder, "--as", "laptop", "--out", str(key))
    assert '"worker" is a role of run' in refused("grant", folder, "--as", "worker")

    client = scripts(CLIENT, str(key))
    assert line(client) == "in laptop 1 7"
    second = scripts(CLIENT, str(key))  # the same name again, while the first one lives
    assert "laptop is in this run already" in line(second)
    told(run, "refused the guest laptop/0: laptop is in this run already")

    forged = json.loads(key.read_text())
    forged["name"] = "boss"
    (tmp_path / "boss.key").write_text(json.dumps(forged))
    (tmp_path / "boss.key").chmod(0o600)
    thief = scripts(CLIENT, str(tmp_path / "boss.key"), "3")  # it gets no answer
    assert "RunFolderError: no answer from the run" in line(thief)
    told(run, "that says it is from boss/0~")
    assert any("its key is that of laptop/0" in e for e in run.events())

    with pytest.raises(realnet.RealnetError, match="is the key of 'laptop', not of 'boss'"):
        asyncio.run(enter(realnet.Node(key=key, name="boss")))
    key.chmod(0o644)
    with pytest.raises(realnet.RealnetError, match=r"open to others \(mode 0644\)"):
        asyncio.run(enter(realnet.Node(key=key)))
    key.chmod(0o600)

    assert "opens run no more" in command("grant", folder, "--as", "laptop", "--revoke")
    put_out = "RealnetError: laptop is put out of the run: the key of laptop was revoked"
    assert put_out in (line(client), line(client))
    told(run, "the guest laptop is gone: the key of laptop was revoked")
    late = scripts(CLIENT, str(key))
    assert "SecurityError: the run does not take the key of laptop" in line(late)
    told(run, "its key is none of this run's")
    assert "laptop has no key" in refused("grant", folder, "--as", "laptop", "--revoke")
    goes_on(run)
    stop(run)
    assert "is not going on" in refused("grant", folder, "--as", "laptop", "--out", str(key))


async def enter(node: realnet.Node) -> None:
    async with node:
        raise AssertionError("entered")


HOST = """
import asyncio, sys, realnet

async def main(run: str) -> None:
    async with realnet.Node(run, name="host") as node:
        worker = await node.serve("worker")
        while len(worker.handled) < 5:
            await asyncio.sleep(0.01)
        worker.hold = True
        while not worker.holding:
            await asyncio.sleep(0.01)
        print("holding", worker.address, flush=True)
        await node.wait()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [(), TCP], ids=["ipc", "tcp"])
def test_a_hosted_worker_that_is_killed_loses_and_doubles_nothing(
    start: Start,
    topology: Path,
    tmp_path: Path,
    scripts: Callable[..., subprocess.Popen[str]],
    how: tuple[str, ...],
) -> None:
    num = 2000
    with (tmp_path / "pipeline.py").open("a") as file:
        file.write(COUNTING)
    text = topology.read_text().replace("pipeline.py:Sink", "pipeline.py:Counting")
    text = re.sub(r"num  = \d+", f"num = {num}", text).replace("count = 2", "count = 1\nmax = 3")
    topology.write_text(text)
    run = start(topology, *how, *FLOOD, "--set", f"roles.sink.num={num - 1}")
    run.until(lambda: ready(run))
    host = scripts(HOST, str(run.folder))
    assert line(host) == "holding worker/1"
    host.kill()
    told(run, "the guest host is gone: its process has ended")
    (tmp_path / "gone").touch()
    told(run, f"{num - 1} came, {num - 1} times")  # 13 is set aside
    assert not any("started again" in e for e in run.events())
    stop(run)


def test_a_guest_that_stands_still_is_dead_and_hears_of_it(
    start: Start, topology: Path, scripts: Callable[..., subprocess.Popen[str]]
) -> None:
    topology.write_text(topology.read_text().replace("count = 2", "count = 1\nmax = 3"))
    run = start(topology, "--set", 'run.suspect="2s"')  # of a busy machine
    run.until(lambda: ready(run))
    host = scripts(HOST, str(run.folder))
    assert line(host) == "holding worker/1"
    host.send_signal(signal.SIGSTOP)
    told(run, "the guest host is gone: silent for")
    goes_on(run)
    host.send_signal(signal.SIGCONT)
    out, _ = host.communicate(timeout=120)
    assert "host is put out of the run: this loop stood still for" in out
    assert "enter again" in out
    stop(run)


def test_the_end_of_the_head_is_noticed(
    start: Start, topology: Path, roles: Any, tmp_path: Path
) -> None:
    run = start(topology, "--set", 'run.suspect="2s"', "--set", 'run.hung="4s"')
    run.until(lambda: ready(run))

    async def visit() -> None:
        async with realnet.Node(run.folder, name="visitor") as node:
            assert (await node.ask("helper", roles.Scale(3))).factor == 1
            run.process.kill()
            with pytest.raises(realnet.RealnetError, match="the head has not answered for"):
                await node.wait()

    asyncio.run(visit())
    run.process.wait()
    with pytest.raises(realnet.RealnetError, match="is gone without a last word"):
        asyncio.run(enter(realnet.Node(run.folder)))


def test_what_the_page_about_it_shows_is_what_happens(
    start: Start, topology: Path, scripts: Callable[..., subprocess.Popen[str]]
) -> None:
    run = start(topology)
    run.until(lambda: ready(run))
    shown = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "realnet.Node(" in shown[0], "the others are in examples/, with tests of their own"
    script = scripts(shown[0].replace("runs/demo", str(run.folder)))
    out, _ = script.communicate(timeout=120)
    assert out.split() == ["1", "7", "0", "1"]
    stop(run)
