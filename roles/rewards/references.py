"""What a reward's name means: a built-in one, "file.py:function" or "pkg.mod:function".

`check_reference` only looks (it parses source, and imports nothing), so that `realnet check` costs
nothing and runs nobody's code; `resolve` imports, and is called in a worker process only. Knows
nothing of pools or tasks.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError, LostReference, listed, nearest
from realnet.roles.rewards.functions import BUILT_IN

Reward = Callable[[str, str, str, str], Any]  # prompt, text, answer, stop
SIGNATURE = "fn(prompt: str, text: str, answer: str) -> float"


def check_reference(reference: str, base: Path, where: str) -> None:
    """Raise ConfigError, with the nearest right name, when this reward is not there.

    `base` is the topology's folder, `where` opens the complaint ("[tasks.x].reward"). Executes and
    imports nothing: a function made by a decorator or a star import may pass.
    """
    place, colon, name = reference.rpartition(":")
    if not colon:
        if reference in BUILT_IN:
            _check_math(reference, where)
            return
        raise LostReference(
            f"{where}: no reward {reference!r}.{nearest(reference, BUILT_IN)} There are: "
            f'{listed(BUILT_IN)}, and your own: "my_rewards.py:function" beside the topology, or '
            f'"package.module:function", each {SIGNATURE}'
        )
    path = base / place if place.endswith(".py") else _module_file(place, reference, where)
    if path is not None:
        _check_function(path, name, reference, where)


def resolve(reference: str, base: Path) -> Reward:
    """Import the reward and return it as fn(prompt, text, answer, stop).

    `stop` (how the answer ended) reaches functions that have a parameter of that name. Raises
    ConfigError when the code cannot be imported or has no such function.
    """
    place, colon, name = reference.rpartition(":")
    if not colon:
        if reference not in BUILT_IN:
            check_reference(reference, base, "reward")
        if reference == "math":
            importlib.import_module("math_verify")  # now, not inside the first call's time limit
        return _with_stop(BUILT_IN[reference])
    try:
        module = _import_file(base / place) if place.endswith(".py") else _import(place)
    except Exception as error:  # whatever the user's module raises, it names the module
        raise ConfigError(
            f"reward {reference!r}: importing {place} raised {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise LostReference(
            f"reward {reference!r}: {place} has no function {name!r}.{nearest(name, known)} "
            f"It has: {listed(known)}"
        )
    return _with_stop(function)


def _with_stop(function: Callable[..., Any]) -> Reward:
    try:
        wants_stop = "stop" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        wants_stop = False
    if wants_stop:
        return lambda prompt, text, answer, stop: function(prompt, text, answer, stop=stop)
    return lambda prompt, text, answer, _stop: function(prompt, text, answer)


def _import(module: str) -> Any:
    return importlib.import_module(module)


def _import_file(path: Path) -> Any:
    """Import a file by its path; files beside it can be imported by name, after everything else."""
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"_reward_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the user's look it up there
    spec.loader.exec_module(module)
    return module


def _check_math(reference: str, where: str) -> None:
    if reference == "math" and PathFinder.find_spec("math_verify") is None:
        raise ConfigError(
            f'{where}: the reward "math" needs the package math-verify: '
            "pip install 'realnet-rl[train]'"
        )


def _module_file(module: str, reference: str, where: str) -> Path | None:
    """Return the source file of a module without importing its parents; None: not Python source."""
    search: list[str] | None = None
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        spec = PathFinder.find_spec(full, search) if full.isidentifier() or depth > 1 else None
        if spec is None:
            raise LostReference(
                f"{where}: the reward {reference!r} names the module {full!r}, which is not "
                f'installed here. A file beside the topology is written "{parts[-1]}.py:function"'
            )
        search = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _check_function(path: Path, name: str, reference: str, where: str) -> None:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        near = ""
        if path.parent.is_dir():
            near = nearest(path.name, (p.name for p in path.parent.glob("*.py")))
        raise LostReference(
            f"{where}: the reward {reference!r} names the file {path}, which cannot be read: "
            f"{error.strerror}.{near}"
        ) from None
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            f"{where}: the reward {reference!r}: {path} is not Python: {error}"
        ) from None
    functions = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if name in functions:
        _check_signature(functions[name], f"{where}: the reward {reference!r}")
        return
    if name in _other_names(tree) or "*" in _other_names(tree):
        return
    raise LostReference(
        f"{where}: the reward {reference!r}: {path.name} has no function {name!r}."
        f"{nearest(name, functions)} It has: {listed(functions)}"
    )


def _other_names(tree: ast.Module) -> set[str]:
    """Return names that a module binds without `def`; anything inside `if` or `try` counts."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    for outer in tree.body:
        if isinstance(outer, ast.If | ast.Try | ast.ClassDef):
            names |= {n.name for n in ast.walk(outer) if isinstance(n, ast.FunctionDef)}
            names |= {outer.name} if isinstance(outer, ast.ClassDef) else set()
    return names


def _check_signature(function: ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> None:
    arguments = function.args
    places = len(arguments.posonlyargs) + len(arguments.args)
    needed = places - len(arguments.defaults)
    stop = any(a.arg == "stop" for a in arguments.args)
    if (places < 3 and arguments.vararg is None) or needed > (4 if stop else 3):
        raise ConfigError(f"{where} takes {places} arguments: a reward is {SIGNATURE}")
