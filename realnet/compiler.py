"""`python -m realnet.compiler`: compiles the hot path with mypyc, or says why it cannot.

It is a step of its own and not one of `pip install`: mypyc needs the types of what realnet imports,
so it has to run where those are installed, with a C compiler and Python's headers; and the sources
run as they are without it. What it makes is put into `realnet/_compiled` in one go, beside a
manifest by which `compiled.py` sees whether it still fits and is whole. `--remove` takes it away.

Only modules where it pays are compiled (measured: those that call ZeroMQ and those of share wires
gain nothing). mypyc has neither async generators nor `continue` within try and finally, and
makes nothing good of msgspec's records: those are in modules of their own.

Imports realnet's modules by name only. Called by people and by `make compile`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from realnet.compiled import FOLDER, MANIFEST, PACKAGE, digest, python_tag

MODULES = (
    *("calls", "codec", "deadlines", "link", "links", "live.ask", "opencall", "served", "serving"),
    *("arrays", *(f"transport.{m}" for m in ("held", "inbox", "outbox", "pace", "ring"))),
)
# In a process of its own and in a folder with nothing but sources: setup() and mypy both look
# around where they are.
BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
lenient = ["--explicit-package-bases", "--ignore-missing-imports", "--follow-imports=silent",
           "--config-file="]
extensions = mypycify([*lenient, *sys.argv[1:]], opt_level="2", debug_level="0")
setup(name="hot", packages=[], ext_modules=extensions,
      script_args=["-q", "build_ext", "--build-lib", "out", "--build-temp", "temp"])
"""


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m realnet.compiler")
    parser.add_argument("--remove", action="store_true", help="back to the sources alone")
    if parser.parse_args().remove:
        shutil.rmtree(FOLDER, ignore_errors=True)
        return 0
    why = missing()
    if not why:
        with tempfile.TemporaryDirectory(prefix="realnet-compile-") as place:
            try:
                why = build(Path(place), FOLDER)
            except OSError as error:
                why = f"{error}: is there room, and may you write into {FOLDER.parent}?"
    text = f"realnet stays pure Python: {why}" if why else f"compiled {', '.join(MODULES)}"
    print(text, file=sys.stderr if why else sys.stdout)
    return 1 if why else 0


def missing() -> str:
    """Say what compiling needs and this environment has not; '' if all is there."""
    for module in ("mypyc", "setuptools"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed (pip install mypy setuptools)"
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(os.environ.get("CC", compiler)) is None:
        return f"there is no C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are not installed (python3-dev)"
    return ""


def build(place: Path, folder: Path) -> str:
    """Compile in `place` and put the result into `folder`; return why not, '' if it went well."""
    ignored = shutil.ignore_patterns("__pycache__", "_compiled", "roles", "topologies")
    shutil.copytree(PACKAGE, place / "realnet", ignore=ignored)
    sources = [f"realnet/{module.replace('.', '/')}.py" for module in MODULES]
    known = {name: digest(place / "realnet" / name) for name in _looked_at(place / "realnet")}
    command = [sys.executable, "-c", BUILD, *sources]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        said = [line for line in lines if "error" in line.lower()] or lines[-10:]
        return "\n    ".join(["mypyc or the C compiler failed", *said[:10]])
    # Of its own: another build may be going on, here or on another host with the same files.
    new = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    new.mkdir(parents=True)
    try:
        _fill(new, place / "out", known)
        put(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return ""


def put(new: Path, folder: Path) -> None:
    """Let what is new take the folder's place. Raises OSError."""
    old = new.with_name(f"{new.name}.old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():  # else another build was quicker, just now
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _fill(new: Path, out: Path, known: dict[str, str]) -> None:
    """Copy what was made into a folder, and write what it fits."""
    files: dict[str, dict[str, str | int]] = {}
    for made in sorted(out.rglob(f"*{python_tag()}")):
        name = made.relative_to(out).as_posix().removesuffix(python_tag()).replace("/", ".")
        file = f"{name}{python_tag()}"
        files[name] = {"file": file, "bytes": made.stat().st_size, "sha256": digest(made)}
        shutil.copy(made, new / file)
    import mypy.version

    about = {
        "python": python_tag(),
        "by": f"mypyc {mypy.version.__version__}",
        "sources": known,
        "files": files,
    }
    (new / MANIFEST).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _looked_at(package: Path) -> list[str]:
    """Return the sources whose change may matter: the modules, and what they import of realnet."""
    found: set[str] = set()
    for module in MODULES:
        source = package / f"{module.replace('.', '/')}.py"
        found.add(source.relative_to(package).as_posix())
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("realnet"):
                for name in ("", *(f".{alias.name}" for alias in node.names)):
                    path = package.parent / f"{node.module}{name}".replace(".", "/")
                    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
                        if file.is_file():
                            found.add(file.relative_to(package).as_posix())
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main())
