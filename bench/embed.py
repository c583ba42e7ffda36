"""What hosting a role costs a web service: p99 of its handler with the role and without.

One run and one service go on for the whole measurement; only the role comes and goes, in phases
without-with-with-without, so that whatever else the machine does is in both. Requests are sent at
fixed times whether or not earlier ones were answered, and timed from when they were due.

    make bench-embed    writes runs/bench/embed.json, and the table in BENCHMARKS.md
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ROOT = HERE.parent
START, END = "<!-- embed: written by make bench-embed -->", "<!-- embed: end -->"
RATE_PER_S = 200.0
CONNECTIONS = 16
SETTLE_S = 1.0
PLAN = (False, True, True, False)


@dataclass
class Phase:
    """One phase: how long requests took, and what the role did meanwhile."""

    hosting: bool
    requests: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    judged_per_s: float


class Http:
    """One keep-alive connection to the service."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def call(self, path: str, method: str = "GET") -> Any:
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise click.ClickException(f"{path}: {head.decode()}")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        return json.loads(await self._reader.readexactly(int(fields[b"content-length"])))

    def close(self) -> None:
        self._writer.close()


async def measure(port: int, seconds: float) -> list[float]:
    """Send requests at fixed times; return how long after it was due each was answered."""
    free: asyncio.Queue[Http] = asyncio.Queue()
    connections = [Http(port) for _ in range(CONNECTIONS)]
    for http in connections:
        await http.open()
        free.put_nowait(http)
    took_s: list[float] = []

    async def one(due_s: float) -> None:
        http = await free.get()
        await http.call("/hello/you")
        took_s.append(time.perf_counter() - due_s)
        free.put_nowait(http)

    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for k in range(int(seconds * RATE_PER_S)):
            due_s = start_s + k / RATE_PER_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(one(due_s))
    for http in connections:
        http.close()
    return took_s


async def phases(port: int, rounds: int, seconds: float) -> list[Phase]:
    """Go through the plan `rounds` times."""
    control = Http(port)
    await control.open()
    found: list[Phase] = []
    hosting = False
    for wanted in PLAN * rounds:
        if wanted != hosting:
            await control.call(f"/switch/{wanted}", "POST")
            hosting = wanted
            await asyncio.sleep(SETTLE_S)
        before = (await control.call("/lending"))["judged"]
        start_s = time.perf_counter()
        took = sorted(1e3 * s for s in await measure(port, seconds))
        judged = (await control.call("/lending"))["judged"] - before
        found.append(
            Phase(
                hosting=wanted,
                requests=len(took),
                p50_ms=took[len(took) // 2],
                p99_ms=took[int(len(took) * 0.99)],
                worst_ms=took[-1],
                judged_per_s=judged / (time.perf_counter() - start_s),
            )
        )
        click.echo(str(found[-1]))
    if hosting:
        await control.call("/switch/False", "POST")
    control.close()
    return found


def ratio(found: list[Phase], figure: str) -> float:
    """Return the median over rounds of with / without."""
    size, ratios = len(PLAN), []
    for at in range(0, len(found), size):
        mean = {
            hosting: statistics.mean(
                getattr(p, figure) for p in found[at : at + size] if p.hosting is hosting
            )
            for hosting in (True, False)
        }
        ratios.append(mean[True] / mean[False])
    return statistics.median(ratios)


def until(what: str, there: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for something of a process."""
    end_s = time.monotonic() + 120
    while not there():
        if process.poll() is not None or time.monotonic() > end_s:
            raise click.ClickException(f"{what} did not come:\n{log.read_text()}")
        time.sleep(0.1)


def measured(folder: Path, rounds: int, seconds: float) -> list[Phase]:
    """Start run and service, measure, and end both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    run_folder = folder / "embed"
    env = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "EMBED_RUN": str(run_folder)}
    env.pop("REALNET_RUN", None)  # the service begins without the role
    commands = {
        "run": ["realnet.cli", "run", str(HERE / "embed.toml"), "--runs", str(folder)],
        "service": [
            *("uvicorn", "embed_service:app", "--port", str(port), "--log-level", "warning"),
            *("--timeout-keep-alive", "600"),  # the connection that switches is idle in between
        ],
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, words in commands.items():
            log = folder / f"{name}.txt"
            with log.open("wb") as out:
                started[name] = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    cwd=ROOT / "examples" / "service",
                    env=env,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            if name == "run":
                until("a first step", lambda: trained(run_folder), started[name], log)
            else:
                until("the service", lambda: listens(port), started[name], log)
        return asyncio.run(phases(port, rounds, seconds))
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(60)


def trained(folder: Path) -> bool:
    rows = folder / "metrics.jsonl"
    return rows.is_file() and '"grad_norm"' in rows.read_text()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def table(found: list[Phase], about: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md."""
    lines = [
        f"{about['date']}, {about['machine']}, load average {about['load']:.1f} before.",
        "",
        "| | requests | p50 ms | p99 ms | worst ms | judged /s |",
        "|---|---|---|---|---|---|",
    ]
    for hosting, name in ((False, "without the role"), (True, "with it")):
        of = [p for p in found if p.hosting is hosting]
        mean = [
            statistics.mean(getattr(p, f) for p in of)
            for f in ("p50_ms", "p99_ms", "worst_ms", "judged_per_s")
        ]
        lines.append(
            f"| {name} | {sum(p.requests for p in of)} | "
            + " | ".join(f"{value:.2f}" for value in mean)
            + " |"
        )
    ratios = f"p99 {about['p99_ratio']:.2f}, p50 {about['p50_ratio']:.2f}"
    return "\n".join([*lines, "", f"With / without, median of rounds: {ratios}.", ""])


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Of each phase.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench/embed.json"))
@click.option("--benchmarks", type=click.Path(path_type=Path), help="BENCHMARKS.md to write into.")
def main(rounds: int, seconds: float, out: Path, benchmarks: Path | None) -> None:
    """Measure a web service's handler with a role in its loop and without."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), rounds, seconds)
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load": load,
        "p99_ratio": ratio(found, "p99_ms"),
        "p50_ratio": ratio(found, "p50_ms"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**about, "phases": [asdict(p) for p in found]}, indent=1) + "\n")
    text = table(found, about)
    click.echo(text)
    if benchmarks is not None:
        page = benchmarks.read_text(encoding="utf-8")
        head, _, rest = page.partition(START)
        _, _, tail = rest.partition(END)
        benchmarks.write_text(f"{head}{START}\n\n{text}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
