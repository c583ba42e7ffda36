"""The shape of the repository: the links, the guard, what importing costs, the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bans

import realnet

ROOT = Path(__file__).parent.parent


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_links_are_folders() -> None:
    for name in ("roles", "topologies"):
        link = ROOT / "realnet" / name
        assert link.is_dir(), (
            f"realnet/{name} must be a link to ../{name}: does git make links here?"
        )
        assert link.resolve() == ROOT / name


def test_roles_has_one_import_name() -> None:
    result = python("import roles")
    assert "import realnet.roles, not roles" in result.stderr


def test_importing_realnet_is_light() -> None:
    code = (
        "import sys, realnet\n"
        "heavy = {'torch', 'vllm', 'transformers', 'zmq', 'uvloop'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'realnet.member' not in sys.modules"  # python -m would run it a second time
    )
    assert python(code).stderr == ""


def test_role_modules_import_no_torch() -> None:
    roles = (
        "prompter",
        "driver",
        "generator",
        "rewarder",
        "trainer",
        "parameter_server",
        "evaluator",
    )
    code = "import sys\n" + "".join(f"import realnet.roles.{r}.{r}\n" for r in roles)
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    assert python(code).stderr == ""


def test_public_names_are_sorted_and_there() -> None:
    assert realnet.__all__ == sorted(realnet.__all__)
    assert all(hasattr(realnet, name) for name in realnet.__all__)


def test_bans_find_planted_violations() -> None:
    planted = {
        "import pickle": "import of pickle",
        "from marshal import loads": "import of marshal",
        "eval('1')": "call of eval",
        "torch.load('x')": "call of torch.load",
        "s.recv_pyobj()": "call of s.recv_pyobj",
        "run('x', shell=True)": "shell=True",
        "f(trust_remote_code=True)": "trust_remote_code=True",
        "bind('tcp://*:5')": "tcp://* in a string",
    }
    for source, expected in planted.items():
        assert any(expected in v for v in bans.violations(source, "x.py")), source
    assert bans.violations("import time", "x.py", role=True)
    assert not bans.violations("import time", "x.py")
    assert bans.main() == 0
