"""From the `kind` of a role to its class.

A kind is a short name that an installed package registered (entry point group "realnet.kinds"),
"pkg.mod:Class", or "file.py:Class" beside the topology. It comes from the topology file on disk
only, never from a message.

Knows nothing of wires. Called by `resolve.py`, and by a process that reads a plan.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from importlib.metadata import entry_points, requires
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from realnet.actor import Actor
from realnet.errors import LostReference, listed, nearest

GROUP = "realnet.kinds"
DISTRIBUTION = "realnet-rl"


def registered_kinds() -> dict[str, str]:
    """Return short name -> "pkg.mod:Class" of every registered kind."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def load_kind(kind: str, base: Path, where: str) -> type[Actor[Any]]:
    """Return the role class; `where` opens the complaint when there is none."""
    spelled = kind
    if ":" not in kind:
        known = registered_kinds()
        if kind.endswith(".py"):
            names = _actors_of(_from_file(base / kind, where))
            raise LostReference(
                f'{where}.kind = "{kind}": which class of it? Write kind = "{kind}:CLASS". '
                f"It has: {listed(names)}"
            )
        if kind not in known:
            raise LostReference(
                f'{where}: no role kind is called "{kind}".{nearest(kind, known)} '
                f'Known kinds: {listed(known)}; your own is kind = "file.py:Class"'
            )
        spelled = known[kind]
    target = load_object(spelled, base, where)
    if not (isinstance(target, type) and issubclass(target, Actor)):
        raise LostReference(f'{where}: "{kind}" is no role: {target!r} is not an Actor class')
    return target


def load_object(reference: str, base: Path, where: str) -> Any:
    """Return what "pkg.mod:name" or "file.py:name" names."""
    place, _, name = reference.partition(":")
    if not name:
        raise LostReference(f'{where}: "{reference}": write "pkg.mod:name" or "file.py:name"')
    module = _from_file(base / place, where) if place.endswith(".py") else _from_name(place, where)
    try:
        return getattr(module, name)
    except AttributeError:
        known = [n for n in vars(module) if not n.startswith("_")]
        actors = _actors_of(module)
        roles = f" Its actor classes: {listed(actors)}" if actors else ""
        raise LostReference(
            f'{where}: {place} has no "{name}".{nearest(name, known)}{roles}'
        ) from None


def _actors_of(module: ModuleType) -> list[str]:
    """Return the names of the actor classes that a module itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Actor)
        and value.__module__ == module.__name__
    ]


def _from_file(path: Path, where: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise LostReference(f"{where}: no file {path}.{nearest(path.name, beside)}")
    name = f"realnet_user_{path.stem}"
    for known in (sys.modules.get(name), *list(sys.modules.values())):
        if known is not None and _is_of(known, path):
            return known  # one file is one module, or its classes would exist twice
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LostReference(f"{where}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        why = _where_it_failed(error, path)
        raise LostReference(f"{where}: {path} cannot be loaded: {why}") from error
    return module


def _where_it_failed(error: BaseException, path: Path) -> str:
    """Return what went wrong in a file, with its line: that of the file, not of what it called."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if _in(frame, path)]
    return f"line {lines[-1]}: {said}" if lines else said


def _in(frame: FrameType, path: Path) -> bool:
    return frame.f_code.co_filename == str(path)


def _is_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path


def _from_name(place: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if not f"{place}.".startswith(f"{error.name}."):
            raise LostReference(not_installed(error)) from None
        raise LostReference(
            f"{where}: there is no module {error.name}; is its package installed?"
        ) from None


def not_installed(error: ModuleNotFoundError) -> str:
    """Return what to install for a module that a role needs. The same text for every role."""
    for requirement in requires(DISTRIBUTION) or ():
        match = re.match(r"""([\w-]+).*extra == ["'](\w+)["']""", requirement)
        if match and match[1].replace("-", "_") == error.name and match[2] != "dev":
            what = f'pip install "{DISTRIBUTION}[{match[2]}]"'
            return f"the roles need {error.name}, which is not installed: {what}"
    return f"the roles need {error.name}, which is not installed"
