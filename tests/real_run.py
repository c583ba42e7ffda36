"""A real run in real processes, started as a user would start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Seven processes that import torch take a minute to be there on a machine that others use as well.
PATIENCE_S = 200.0


class RealRun:
    """A `realnet run` that is going on. Everything is killed by pid, and only what it started."""

    def __init__(self, topology: Path, runs: Path, *arguments: str, cwd: Path | None = None):
        self.folder = runs / "run"
        self.log = runs / f"output-{time.monotonic_ns()}.txt"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "realnet.cli", "run", str(topology)),
                    *("--runs", str(runs), "--name", "run", *arguments),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
            )
        self.sockets: Path | None = None

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def rows(self, kind: str = "metrics") -> list[dict[str, Any]]:
        path = self.folder / f"{kind}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the line being written
                continue
        return rows

    def events(self) -> list[str]:
        return [row["text"] for row in self.rows("events")]

    def step(self) -> int:
        steps = [r["step"] for r in self.rows() if r["actor"] == "trainer/0" and "step" in r]
        return max(steps, default=-1)

    def members(self) -> dict[str, int]:
        """Slot -> pid of the processes that belong to this run."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "realnet.member" in words and str(self.folder.resolve()) in words:
                found[words[words.index(str(self.folder.resolve())) + 1]] = int(entry.name)
        return found

    def workers(self) -> set[int]:
        """The reward workers that this run's processes have started."""
        members = set(self.members().values())
        found = set()
        for pid in members:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found |= {int(child) for child in task.read_text().split()}
                except OSError:  # it ended while we looked
                    continue
        return self.alive(found)

    def alive(self, workers: set[int]) -> set[int]:
        """Those of these reward workers that have not ended."""
        found = set()
        for pid in workers:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"rewards.worker" in words:
                found.add(pid)
        return found

    def kill(self, slot: str, number: signal.Signals = signal.SIGKILL) -> int:
        pid = self.members()[slot]
        os.kill(pid, number)
        return pid

    def until(self, condition: Callable[[], bool], budget_s: float = PATIENCE_S) -> None:
        end_s = time.monotonic() + budget_s
        while not condition():
            if self.process.poll() is not None and not condition():
                raise AssertionError(f"the run ended early:\n{self.output()}")
            if time.monotonic() > end_s:
                raise AssertionError(f"not reached in {budget_s} s:\n{self.output()}")
            time.sleep(0.05)

    def wait(self, budget_s: float = PATIENCE_S) -> int:
        try:
            return self.process.wait(budget_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still going after {budget_s} s:\n{self.output()}") from None

    def end(self, *, sweep: bool = True) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end_s = time.monotonic() + 5
        while self.members() and time.monotonic() < end_s:
            time.sleep(0.02)  # the kernel is ending them
        note = self.folder / ".sockets"  # a head that a test killed leaves its sockets
        if sweep and note.is_file():
            shutil.rmtree(note.read_text().strip(), ignore_errors=True)


def ready(run: RealRun) -> bool:
    """Tell whether work has come through the pipeline of `realnet/pipeline.py`."""
    return any("100 squares" in e for e in run.events())


def squares(run: RealRun) -> int:
    return max((int(e.split()[0]) for e in run.events() if "squares since" in e), default=0)


def goes_on(run: RealRun) -> None:
    now = squares(run)
    run.until(lambda: squares(run) > now)


def listening(run: RealRun) -> dict[str, list[str]]:
    """Slot -> the addresses on which its process listens."""
    found: dict[str, list[str]] = {}
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                sockets[words[9]] = words[1]
    for slot, pid in {**run.members(), "head/0": run.process.pid}.items():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in sockets:
                found.setdefault(slot, []).append(sockets[target[8:-1]])
    return found
