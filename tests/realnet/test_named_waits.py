"""Every await of the framework on which an actor may wait has a name: `realnet why` shows it.

Held over the text of the modules that run inside of an actor's calls. An await of one of the
framework's own coroutines is looked at where that one waits.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import realnet

HOME = Path(realnet.__file__).parent
FILES = (
    *("actor.py", "calls.py", "callstream.py", "cell.py", "gang.py", "serving.py", "watching.py"),
    *("servedstream.py",),
    *("workbench.py", "live/ask.py", "live/inlet.py", "live/outlet.py", "live/state.py"),
)
# What is named by itself, or nothing is held up by. File and function -> why.
BARE = {
    "actor.py sleep": "the actor sleeps: it waits for nobody",
    "calls.py ask": "an open call: Waits.sources tells it, with whom it asked",
    "callstream.py stream": "an open call, as well",
    "cell.py _release": "the end of the actor itself: the head waits for that, by name",
    "live/ask.py somebody": "named by its caller, calls.somebody",
    "servedstream.py give": "the caller has no room: an open call of that one",
    "serving.py _work": "a worker without work",
    "workbench.py run": "work: beats tell its label and since when",
}


def bare_awaits(source: str) -> set[str]:
    """Return the functions that wait for the loop itself outside of a `with waits.on(...)`."""
    found = set()

    def look(node: ast.AST, function: str, named: bool) -> None:
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            function, named = node.name, False
        elif isinstance(node, ast.With):
            named = named or any(_names(item.context_expr) for item in node.items)
        elif isinstance(node, ast.Await) and _of_the_loop(node.value) and not named:
            found.add(function)
        for child in ast.iter_child_nodes(node):
            look(child, function, named)

    look(ast.parse(source), "", False)
    return found


def _names(context: ast.expr) -> bool:
    return isinstance(context, ast.Call) and ast.unparse(context.func).endswith("waits.on")


def _of_the_loop(value: ast.expr) -> bool:
    """Tell whether this ends when the loop says so, and not when a coroutine of ours returns."""
    if not isinstance(value, ast.Call):  # a future
        return True
    called = ast.unparse(value.func)
    return called.endswith((".wait", ".run_in_executor")) or called.startswith("asyncio.")


@pytest.mark.parametrize("file", FILES)
def test_awaits_have_names(file: str) -> None:
    found = {f"{file} {function}" for function in bare_awaits((HOME / file).read_text())}
    assert found <= BARE.keys(), "name it: with waits.on(who, what, whom): ..."


def test_what_is_excused_is_there() -> None:
    found = {f"{f} {function}" for f in FILES for function in bare_awaits((HOME / f).read_text())}
    assert found >= BARE.keys()


def test_a_planted_one_is_found() -> None:
    planted = """
async def up(self):
    with self._waits.on("a/0", "the others"):
        await self._all_up.wait()
    await self._all_up.wait()

async def named(self):
    with self._waits.on("a/0", "news"):
        await self._future
        await self.other()
"""
    assert bare_awaits(planted) == {"up"}
