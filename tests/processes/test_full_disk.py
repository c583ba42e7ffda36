"""A run whose disk is full from the start: rows wait, logs are done without, the work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOPOLOGY = """
[roles.counter]
kind = "counter.py:Counter"
"""
COUNTER = '''
from realnet import Actor, Config


class Counter(Actor[Config]):
    """Says something and is done."""

    async def run(self) -> None:
        self.event("counting")
        self.finish("counted")
'''
# In a mount namespace of its own: a disk of 64 KiB, filled but for what the plan needs.
FULL = """
mount -t tmpfs -o size=64k none "$1/runs" || exit 77
head -c 32768 /dev/zero > "$1/runs/filling"
exec "$2" -P -m realnet.cli run "$1/net.toml" --runs "$1/runs" --name run
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: mounts a small disk")
def test_a_full_disk_stops_nobody_who_needs_none(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "net.toml").write_text(TOPOLOGY)
    (tmp_path / "counter.py").write_text(COUNTER)
    command = ["unshare", "--mount", "sh", "-c", FULL, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be written (No space left on device): free some space" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
