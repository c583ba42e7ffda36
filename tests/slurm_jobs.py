"""A cluster for tests, and the runs on it as a user has them: by bin/ and the run's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
RUNS = "Bob's runs, 100 %j #1"  # a folder may be called so: all that is tried here goes through it
NODES = ("node1", "node2", "node3")
PATIENCE_S = 120.0  # for what must come, on a machine that does other things as well


class Cluster:
    """A SLURM of three nodes; see cluster.sh."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ,
            "REALNET_CLUSTER": str(folder),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "REALNET_PYTHON": sys.executable,
            "REALNET_SHARED_TMP": "1",
            "PYTHONPATH": str(ROOT),
        }

    def call(self, *words: str, check: bool = True, **more: str) -> str:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**self.environment, **more},
            timeout=120,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def do(self, *words: str) -> str:
        return self.call(str(SCRIPT), *words)

    def start(self) -> None:
        self.do("start")

    def stop(self) -> None:
        self.do("stop")
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)

    def whole(self) -> None:
        """Plug in every cable, switch on every node."""
        for node in NODES:
            self.do("link", node, "up")
            self.do("on", node)

    def idle(self) -> None:
        """Wait until every node is free again."""
        self.whole()
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            states = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()
            if states == ["idle"] * len(NODES):
                return
            if any(s.startswith(("down", "drain")) for s in states):
                self.call("scontrol", "update", "nodename=node[1-3]", "state=resume", check=False)
            time.sleep(0.2)
        raise AssertionError(self.call("sinfo", "-N", "-l") + self.call("squeue"))

    def take(self, *words: str) -> str:
        """Submit a short job to main, which comes before others; return its number."""
        asked = ("--nodes=1", "--exclusive", "--partition=main", "--output=/dev/null", *words)
        return self.call("sbatch", "--parsable", *asked, "--wrap=sleep 4").strip()

    def bytes_to(self, node: str) -> int:
        """How many bytes have crossed the link to a node."""
        return self._counted(node, "tx")  # what the bridge's end has sent

    def bytes_from(self, node: str) -> int:
        """How many bytes have come over the link from a node."""
        return self._counted(node, "rx")

    def _counted(self, node: str, way: str) -> int:
        return int(Path(f"/sys/class/net/rtv-{node}/statistics/{way}_bytes").read_text())

    def processes(self, node: str, mark: str) -> list[str]:
        """The command lines in a node that have this text in them."""
        told = self.call(str(SCRIPT), "exec", node, "ps", "-eo", "args", check=False)
        return [line for line in told.splitlines() if mark in line and "ps -eo" not in line]


class SlurmRun:
    """A run that was submitted with bin/submit."""

    def __init__(
        self,
        cluster: Cluster,
        topology: Path,
        runs: Path,
        words: Sequence[str],
        environment: dict[str, str],
    ):
        self.cluster, self.runs = cluster, runs
        number = len(list(runs.glob("*"))) if runs.is_dir() else 0
        self.folder = runs / f"run{number}"
        self.submitted_s = time.time()
        named = ("--name", self.folder.name, "--runs", str(runs))
        self.said = self.bin("submit", str(topology), *named, *words, **environment)

    def bin(self, script: str, *words: str, **environment: str) -> str:
        return self.cluster.call(str(ROOT / "bin" / script), *words, **environment)

    def realnet(self, verb: str, *words: str) -> str:
        return self.bin("python", "-P", "-m", "realnet.cli", verb, str(self.folder), *words)

    def cancel(self) -> None:
        self.bin("cancel", str(self.folder), "--runs", str(self.runs))

    def jobs(self) -> list[dict[str, Any]]:
        lines = (self.folder / "jobs.jsonl").read_text().splitlines()
        return list(
            {job["number"]: job for job in map(json.loads, lines) if job["number"]}.values()
        )

    @property
    def job(self) -> str:
        return self.lives()[0]

    def lives(self) -> list[str]:
        """The jobs of the run itself, oldest first."""
        return [str(j["number"]) for j in self.jobs() if j["what"] == "run"]

    def state(self, job: str = "") -> str:
        """The state of a job; of one with several parts or elements that of all of them."""
        told = self.cluster.call("squeue", "-h", "-t", "all", "-j", job or self.job, "-o", "%T")
        return " ".join(sorted(set(told.split())))

    def exit_code(self, job: str = "") -> int:
        told = self.cluster.call("scontrol", "show", "job", job or self.job)
        return int(told.partition("ExitCode=")[2].partition(":")[0])

    def attempt(self) -> int:
        found = (self.folder / "attempts").glob("*")
        return max((int(p.name) for p in found if p.name.isdigit()), default=0)

    def rows(self, kind: str = "metrics", attempt: int = 0) -> list[dict[str, Any]]:
        path = self.folder / f"{kind}.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the line that is being written
                continue
        return [r for r in rows if not attempt or r["attempt"] == attempt]

    def events(self, attempt: int = 0) -> list[str]:
        return [row["text"] for row in self.rows("events", attempt)]

    def said_that(self, text: str, attempt: int = 0) -> bool:
        return any(text in e for e in self.events(attempt))

    def log(self, name: str, attempt: int = 1) -> str:
        path = self.folder / "attempts" / str(attempt) / "logs" / f"{name}.log"
        return path.read_text() if path.is_file() else ""

    def output(self) -> str:
        return "\n".join(p.read_text() for p in sorted(self.folder.glob("slurm-*.log")))

    def processes(self) -> list[str]:
        """What there is of it on any node."""
        return [p for n in NODES for p in self.cluster.processes(n, str(self.folder))]

    def hosts(self) -> dict[str, str]:
        """Slot -> the node it lives on, as `realnet top` has it."""
        try:
            status = json.loads((self.folder / "status.json").read_bytes())
        except FileNotFoundError:  # not begun
            return {}
        return {n: s["host"] for n, s in status["slots"].items() if s["state"] == "up"}

    def until(
        self, condition: Callable[[], bool], budget_s: float = PATIENCE_S, what: str = ""
    ) -> float:
        """Wait for it; return how long that took."""
        start_s = time.monotonic()
        while not condition():
            if time.monotonic() - start_s > budget_s:
                events = "\n".join(self.events()[-30:])
                agents = "\n".join(self.log(f"agent-{n}", max(1, self.attempt())) for n in NODES)
                queue = self.cluster.call("squeue", "-t", "all", check=False)
                raise AssertionError(
                    f"not within {budget_s} s: {what}\n{self.output()[-3000:]}\n{events}\n{agents}"
                    f"\n{queue}"
                )
            time.sleep(0.1)
        return time.monotonic() - start_s


def squares(run: SlurmRun, attempt: int = 0) -> int:
    """How far the small network has come."""
    texts = [e for e in run.events(attempt) if "squares since" in e]
    return max((int(e.split()[0]) for e in texts), default=0)


def grows(net: Path, most: int, more: str = "") -> None:
    """Let the workers of the small network be as many as that."""
    text = net.read_text()
    net.write_text(text.replace("[roles.worker]\n", f"[roles.worker]\nmax = {most}\n{more}", 1))


def works(run: SlurmRun, attempt: int = 1, num: int = 5) -> None:
    """Wait until all processes of the small network are up and it does something."""
    run.until(lambda: run.said_that("100 squares", attempt), what=f"work in attempt {attempt}")
    run.until(lambda: len(run.hosts()) == num, what="all are up")


def goes_on(run: SlurmRun) -> None:
    """Wait until the small network has come further, in this life."""
    life = run.attempt()
    now = squares(run, life)
    run.until(lambda: squares(run, life) > now, what="it goes on")
