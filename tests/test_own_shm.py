"""What is left in /dev/shm is blamed on a test only when a test's own process left it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import own_shm
import pytest

# What the tests' process does as it starts, once more; `outside` is /dev/shm as it was before.
LOOK = """
import os, subprocess, sys
outside = os.open("/dev/shm", os.O_RDONLY)
import own_shm
os.close(os.open("sem.mp-of-another-program", os.O_CREAT, dir_fd=outside))
subprocess.run(["touch", "/dev/shm/sem.mp-of-a-test"], check=True)
print(own_shm.OWN, *own_shm.names())
"""


@pytest.mark.skipif(not own_shm.OWN, reason="not root, or no mount namespaces")
def test_only_what_the_tests_made_is_theirs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=Path(own_shm.__file__).parent,
        capture_output=True,
        text=True,
    )
    (own_shm.SHM / "sem.mp-of-another-program").unlink()
    assert done.stdout.split() == ["True", "sem.mp-of-a-test"], done.stderr


def test_without_a_namespace_a_name_must_carry_a_process_of_these_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_shm, "OWN", False)
    before = own_shm.names()
    made = [own_shm.SHM / name for name in (f"torch_{os.getpid()}_1_0", "sem.mp-x", "torch_1_2_3")]
    for path in made:
        path.touch()
    try:
        assert own_shm.names() - before == {made[0].name}
    finally:
        for path in made:
            path.unlink()
