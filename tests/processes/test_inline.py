"""A run inside one process, as a user starts it: signals end it there as well."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

STUBBORN = """
import asyncio, sys, time

from realnet import Actor, Config


class Stubborn(Actor[Config]):
    async def run(self):
        print("begun", flush=True)
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass


class Computing(Actor[Config]):
    async def run(self):
        await self.compute(self.work, label="works")

    @staticmethod
    def work():
        print("begun", flush=True)
        time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["Stubborn", "Computing"])
def test_a_second_signal_ends_an_inline_run_whatever_its_roles_do(
    tmp_path: Path, kind: str
) -> None:
    """In one process nobody can be killed: what does not end is named, and left."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "net.toml").write_text(f'[roles.s]\nkind = "stubborn.py:{kind}"\n')
    command = [sys.executable, "-P", "-m", "realnet.cli", "run", "net.toml", "--inline"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = ""
            for word in ("begun", "stopping: asked to stop (SIGINT)"):
                for line in process.stdout:
                    said += line
                    if word in line:
                        break
                assert word in said
                process.send_signal(signal.SIGINT)
            said += process.stdout.read()
            assert process.wait(60) == 130, said
        finally:
            process.kill()
    assert "did not end in 1.0 s" in said
    assert "ended: " in said
    assert "Traceback" not in said
