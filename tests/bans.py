"""What must not stand in realnet/ and roles/: code from bytes, shells, unsafe loads, wide binds.

Run by `make check`; `tests/test_bans.py` plants violations and sees them found.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
CALLS = {"eval", "exec", "torch.load", "yaml.load", "recv_pyobj", "send_pyobj"}
KEYWORDS = {("shell", True), ("trust_remote_code", True), ("weights_only", False)}
TEXTS = ("tcp://*", "0.0.0.0")
# Roles take time, chance and tasks from their world, so that they run under a virtual clock.
ROLE_FOLDERS = ("prompter", "driver", "rewarder", "parameter_server", "relay", "evaluator")
ROLE_MODULES = {"time", "random", "threading"}
ROLE_CALLS = {"asyncio.sleep", "asyncio.create_task", "asyncio.wait_for", "time.time"}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def violations(source: str, path: str, role: bool = False) -> list[str]:
    """Return 'path:line: what' for every violation in a file's text."""
    found = []
    modules = MODULES | (ROLE_MODULES if role else set())
    calls = CALLS | (ROLE_CALLS if role else set())
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            bad = [n for n in names if n.partition(".")[0] in modules]
            found += [f"{path}:{line}: import of {n}" for n in bad]
        elif isinstance(node, ast.Call):
            name = _name(node.func)
            if name in calls or name.rpartition(".")[2] in ("recv_pyobj", "send_pyobj"):
                found.append(f"{path}:{line}: call of {name}")
            for keyword in node.keywords:
                value = keyword.value
                if isinstance(value, ast.Constant) and (keyword.arg, value.value) in KEYWORDS:
                    found.append(f"{path}:{line}: {keyword.arg}={value.value}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [f"{path}:{line}: {t} in a string" for t in TEXTS if t in node.value]
    return found


def main() -> int:
    """Check both packages; print what is found."""
    root = Path(__file__).parent.parent
    found: list[str] = []
    for package in ("realnet", "roles"):
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root)
            if name.parts[:2] in (("realnet", "roles"), ("realnet", "topologies")):
                continue
            role = name.parts[0] == "roles" and name.parts[1] in ROLE_FOLDERS
            found += violations(path.read_text(encoding="utf-8"), str(name), role)
    print("\n".join(found) or "bans: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
