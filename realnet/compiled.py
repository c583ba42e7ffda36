"""Which form of the hot path runs: its sources, or what mypyc made of them.

The modules that every ask goes through can be compiled (`python -m realnet.compiler`, which is
`make compile`): a fifth less CPU for an ask between processes, a third less inside of one. The
sources stay the reference, and run alone when nothing was compiled. What was compiled is used only
while it fits: the same Python, a system that loads it, every source that it was made of, or that
those import, as it was then (after an edit the sources run again), and each library as long as when
it was built: one that was cut off would end the process where it is first touched. What is in the
libraries is looked at by `damaged`, for `realnet --version` and the tests. REALNET_COMPILED=0 never
uses the compiled form, 1 insists on it (ImportError says what is wrong).

Knows nothing of compilers. Imported by `__init__.py` before any other module, so it imports nothing
of realnet, and chooses as it is imported; `cli.py` and the benchmarks show `FORM`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / "_compiled"
MANIFEST = "manifest.json"
SWITCH = "REALNET_COMPILED"
PURE = "pure Python"


class Finder(MetaPathFinder):
    """Finds compiled modules before their sources are looked for. `files`: by module, in full."""

    def __init__(self, files: Mapping[str, Path]):
        self._files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(name)
        return importlib.util.spec_from_file_location(name, file) if file is not None else None


def python_tag() -> str:
    """Return what a compiled module must be made for."""
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def digest(file: Path) -> str:
    """Return the digest of a source or a library, '' when it is not there."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def why_not(manifest: Mapping[str, Any], package: Path, folder: Path) -> str:
    """Say why what was compiled does not fit these sources and this Python; '' if it does."""
    if manifest["python"] != python_tag():
        return f"compiled for another Python ({manifest['python']})"
    for name, known in manifest["sources"].items():
        if digest(package / name) != known:
            return f"{name} has changed since it was compiled: make compile"
    for built in manifest["files"].values():
        file = folder / built["file"]
        try:
            bytes_there = file.stat().st_size
        except OSError:
            return f"{file} is not there: make compile"
        if bytes_there != built["bytes"]:
            return f"{file} has {bytes_there} bytes, not {built['bytes']} as built: make compile"
    return ""


def damaged(folder: Path = FOLDER) -> str:
    """Say which library is not as it was built, '' if all are. Reads them all: a few ms."""
    try:
        built = json.loads((folder / MANIFEST).read_bytes())["files"].values()
        bad = [one["file"] for one in built if digest(folder / one["file"]) != one["sha256"]]
    except OSError as error:
        return f"{error.filename}: {error.strerror}: make compile"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"{folder / MANIFEST} is damaged: make compile"
    return f"{folder / bad[0]} is not as it was built: make compile" if bad else ""


def use(files: Mapping[str, Path]) -> str:
    """Have the compiled modules found from now on; return why this system cannot, '' if it can.

    The code of all of them is in one library, which belongs to no package and is loaded here: in
    the middle of the imports it would be too late for the sources.
    """
    finder = Finder(files)
    sys.meta_path.insert(0, finder)
    try:
        for name in files:
            if "." not in name:
                importlib.import_module(name)
    except ImportError as error:  # made on a system with a newer libc, or damaged
        sys.meta_path.remove(finder)
        return f"it cannot be loaded here: {error}: make compile"
    return ""


def choose(folder: Path = FOLDER, package: Path = PACKAGE) -> str:
    """Use the compiled form if it is there and fits; return the form that runs from now on.

    Raises ImportError when REALNET_COMPILED=1 and it cannot be used.
    """
    switch = os.environ.get(SWITCH, "")
    form = ""
    if switch == "0":
        why = f"{SWITCH}=0"
    else:
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            files = {name: folder / built["file"] for name, built in manifest["files"].items()}
            by = manifest["by"]
            why = why_not(manifest, package, folder) or use(files)
            form = "" if why else f"compiled ({by})"
        except OSError:
            why = "" if switch != "1" else "nothing was compiled: make compile"
        except (ValueError, KeyError, AttributeError, TypeError):
            why = f"{folder / MANIFEST} is damaged: make compile"
    if form:
        return form
    if switch == "1":
        raise ImportError(f"{SWITCH}=1, but realnet's compiled form cannot be used: {why}")
    return f"{PURE} ({why})" if why else PURE


FORM = choose()  # the form of the hot path that runs, for people
