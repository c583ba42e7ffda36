"""A new project: a topology, one role, one test, a page that says how to go on.

Knows the texts and that nothing is overwritten. Called by `realnet init`.
"""

from __future__ import annotations

import re
from pathlib import Path

from realnet.errors import ConfigError

TOPOLOGY = """\
# Every key: realnet explain greeter, realnet explain run. Everything that is wrong: realnet check.
title = "@NAME@"

[roles.greeter]
kind  = "roles.py:Greeter"
names = ["Ada", "Bob"]
"""

ROLES = '''\
"""The roles of @NAME@: what each takes, asks, answers and shows, by type."""

from __future__ import annotations

from typing import Annotated

from realnet import Actor, Config, Message, Request, StateOut, doc, handles


class Greeting(Message):
    """One greeting. Fields of a message are added at the end, with defaults."""

    text: str
    number: int


class Greet(Request[Greeting]):
    """Wants a greeting: `await port(Greet("Ada"))` is a Greeting, and type checkers know it."""

    name: str


class GreeterConfig(Config):
    """The keys of [roles.greeter]."""

    names: Annotated[tuple[str, ...], doc("who is greeted, in order")]
    word: Annotated[str, doc("how a greeting begins")] = "Hello"


class Greeter(Actor[GreeterConfig]):
    """Greets everybody in its list, and whoever else is named to it."""

    last = StateOut(Greeting)  # others may follow it: [wires] news = "greeter -> other"

    async def start(self) -> None:
        self.greeted = 0

    async def run(self) -> None:
        for name in self.config.names:
            greeting = await self.greet(Greet(name))
            self.event(greeting.text)
        self.finish(f"{self.greeted} greeted")  # ends the run; without it, it goes on

    @handles
    async def greet(self, request: Greet) -> Greeting:
        self.greeted += 1
        greeting = Greeting(f"{self.config.word}, {request.name}", self.greeted)
        self.last.set(greeting)
        return greeting
'''

TEST = '''\
"""The topology in the test's own loop: real actors and messages, no processes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from realnet.testing import running

HERE = Path(__file__).parent


def test_everybody_is_greeted(tmp_path: Path) -> None:
    shutil.copy(HERE / "roles.py", tmp_path)

    async def story() -> None:
        async with running((HERE / "topology.toml").read_text(), tmp_path) as run:
            await run.until(lambda: "Hello, Bob" in run.events())
            assert run.actor("greeter/0").greeted == 2

    asyncio.run(story())
'''

README = """\
# @NAME@

A network of actors on realnet: `topology.toml` says who there is, `roles.py` what they do.

    realnet check topology.toml           # everything that is wrong with it
    realnet plan topology.toml            # processes, wires, limits; --graph terminal draws it
    realnet run topology.toml             # one process for each role; --inline: all in one
    realnet explain greeter.word          # what a key is
    pip install pytest && pytest          # the test
"""

IGNORED = "runs/\n__pycache__/\n"
FILES = {
    "topology.toml": TOPOLOGY,
    "roles.py": ROLES,
    "test_roles.py": TEST,
    "README.md": README,
    ".gitignore": IGNORED,
}


def start_project(folder: Path) -> list[Path]:
    """Write a new project into `folder` and return its files.

    Raises ConfigError when the name cannot name a topology, or when anything is there already.
    """
    name = folder.name
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        raise ConfigError(
            f"{name!r} cannot name a project: letters, digits, _, - and ., a letter first"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there already, and nothing is overwritten: take another name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, text in FILES.items():
        path = folder / file
        path.write_text(text.replace("@NAME@", name), encoding="utf-8")
        written.append(path)
    return written
