"""docs/embedding.md's services: a rewarder in a web service, and a service that is the source."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, check_code, realnet, section
from real_run import PATIENCE_S, RealRun

from realnet.launch.ports import HeldPort

pytest.importorskip("fastapi", reason="pip install -e .[dev]")
pytest.importorskip("uvicorn", reason="pip install -e .[dev]")

EXAMPLES = ROOT / "examples"
SHORT = [
    word
    for value in ("run.until.steps=12", "roles.trainer.warm_start.steps=20", "policy.batch=8")
    for word in ("--set", value)
]
Start = Callable[..., RealRun]


class Service:
    """A web service in a process of its own."""

    def __init__(self, module: str, folder: Path, log: Path, **env: str) -> None:
        self.held = HeldPort()  # runs beside it open ports as well
        self.port = self.held.number
        self.log = log
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", f"{module}:app", "--log-level", "warning"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                ],
                cwd=folder,
                env={**os.environ, **env, "PYTHONPATH": path},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.until(lambda: self.answers("/openapi.json"))

    def call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())

    def answers(self, path: str) -> bool:
        try:
            self.call(path)
        except OSError:
            return False
        return True

    def until(self, condition: Callable[[], bool], budget_s: float = PATIENCE_S) -> None:
        end_s = time.monotonic() + budget_s
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end_s, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> bool:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)  # uvicorn ends in order and then by the signal itself
        return self.process.returncode in (0, -signal.SIGTERM)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services; whatever goes on at the end is killed."""
    services: list[Service] = []

    def begin(module: str, folder: Path, **env: str) -> Service:
        log = tmp_path / f"{module}-{len(services)}.txt"
        services.append(Service(module, folder, log, **env))
        return services[-1]

    yield begin
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        service.held.close()


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_service_hosts_a_rewarder_and_serves_its_own_traffic(
    start: Start, serve: Callable[..., Service], tmp_path: Path
) -> None:
    pieces = section("embedding.md", "A web service that hosts a role")
    assert check_code(pieces, ["examples/service/service.py", "examples/service/service.toml"]) == 2
    service = serve("service", EXAMPLES / "service", REALNET_RUN=str(tmp_path / "run"))
    assert service.call("/hello/you") == {"hello": "you"}
    service.until(lambda: "is not the folder of a run" in service.call("/lending")["doing"])
    run = start(EXAMPLES / "service" / "service.toml", *SHORT)
    service.until(lambda: service.call("/lending")["judged"] > 0)
    assert service.call("/lending")["doing"] == "hosts rewarder/1"
    assert service.call("/hello/you") == {"hello": "you"}
    assert run.wait() == 0, run.output()
    assert "12 steps" in run.output()
    service.until(lambda: service.call("/lending")["doing"] == "the run has ended")
    assert service.call("/hello/you") == {"hello": "you"}  # its own life goes on
    assert service.stop()


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.long
def test_a_service_that_dies_takes_no_answer_with_it(
    start: Start, serve: Callable[..., Service]
) -> None:
    run = start(EXAMPLES / "service" / "service.toml", *SHORT)
    run.until(lambda: (run.folder / ".meeting.json").is_file())
    service = serve("service", EXAMPLES / "service", REALNET_RUN=str(run.folder))
    service.until(lambda: service.call("/lending")["judged"] > 0)
    service.process.kill()
    service.process.wait()
    run.until(lambda: any("the guest service is gone" in e for e in run.events()))
    assert run.wait() == 0, run.output()
    counts = json.loads((run.folder / "ledger.json").read_text())["counts"]
    assert counts["trained"] == 12 * 8
    assert counts["set_aside"] == 0


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.long
def test_a_service_is_the_source_of_what_is_trained_on(
    start: Start, serve: Callable[..., Service], tmp_path: Path
) -> None:
    pieces = section("embedding.md", "A service whose users are the reward")
    files = [f"examples/feedback/{name}" for name in ("service.py", "feedback.toml")]
    assert check_code(pieces, files) == 3
    run = start(EXAMPLES / "feedback" / "feedback.toml")
    run.until(lambda: (run.folder / ".meeting.json").is_file())
    key = tmp_path / "shop.key"
    granted = realnet(tmp_path, f"realnet grant {run.folder} --as shop --out {key}")
    assert granted.returncode == 0, granted.stderr
    service = serve("service", EXAMPLES / "feedback", REALNET_KEY=str(key))
    with pytest.raises(urllib.error.HTTPError) as refused:
        service.call("/ask?prompt=", {})
    assert refused.value.code == 400
    refused.value.close()
    prompts = 0
    while run.process.poll() is None and prompts < 200:
        try:
            answer = service.call(f"/ask?prompt=00000{prompts % 10}%2B000001%3D", {})
            rewards = [float(len(text)) / 56 for text in answer["answers"]]
            given = service.call(f"/thumbs/{answer['name']}", {"rewards": rewards})
        except OSError:  # the run has come to its end
            break
        assert re.fullmatch(rf"policy/{answer['name']}:\d+", given["ticket"])
        prompts += 1
    assert run.wait() == 0, run.output()
    counts = json.loads((run.folder / "ledger.json").read_text())["counts"]
    assert counts["trained"] == 10 * 4
    assert counts["set_aside"] == counts["dropped"] == 0
    steps = [row for row in run.rows() if "grad_norm" in row]
    assert len(steps) == 10
    assert any(row["age_mean"] > 0 for row in steps)  # other versions wrote later answers
    assert all(row["samples"] == 8 for row in steps)
    assert prompts >= 40
    assert service.stop()


MIXED = """
extends = "feedback.toml"
title   = "mixed"
[run]
until = { steps = 6 }
[tasks.addz]
use = "train"
[wires]
work  = "prompter -> driver -> rewarder -> trainer"
given = "collector -> trainer"
[roles]
prompter = {}
driver   = { place = "generator" }
rewarder = {}
"""


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.long
def test_feedback_of_a_service_and_ordinary_tickets_share_one_ledger(
    start: Start, serve: Callable[..., Service], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(EXAMPLES / "feedback", folder)
    (folder / "mixed.toml").write_text(MIXED)
    run = start(folder / "mixed.toml")
    run.until(lambda: (run.folder / ".meeting.json").is_file())
    key = tmp_path / "shop.key"
    granted = realnet(tmp_path, f"realnet grant {run.folder} --as shop --out {key}")
    assert granted.returncode == 0, granted.stderr
    service = serve("service", folder, REALNET_KEY=str(key))
    tickets: list[int] = []
    while run.process.poll() is None:
        try:
            answer = service.call("/ask?prompt=000002%2B000003%3D", {})
            given = service.call(f"/thumbs/{answer['name']}", {"rewards": [1.0, 0.0]})
        except OSError:  # the run has come to its end
            break
        tickets.append(int(given["ticket"].rpartition(":")[2]))
    assert run.wait() == 0, run.output()
    ledger = json.loads((run.folder / "ledger.json").read_text())["counts"]
    ends = ("waiting", "leased", "buffered", "trained", "set_aside", "dropped")
    assert ledger["issued"] == sum(ledger[state] for state in ends)
    assert ledger["trained"] == 6 * 4
    assert ledger["set_aside"] == 0
    assert len(tickets) == len(set(tickets)) > 0  # none was taken twice, and some were ours
    print(f"{len(tickets)} of {ledger['issued']} tickets were the service's")
    assert len(tickets) < ledger["issued"]  # and some the prompter's
    assert service.stop()
