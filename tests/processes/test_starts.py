"""Processes that cannot start: told once, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from real_run import RealRun

WRONG = """
from realnet import Actor, Config
from realnet.errors import ConfigError


class Lonely(Actor[Config]):
    @classmethod
    def preload(cls) -> None:
        raise ConfigError("there is no such model: name another")
"""


UNABLE = """
import asyncio

from realnet import Actor, Ask, Config, Nothing, Request, handles
from realnet.errors import ConfigError


class Question(Request[Nothing]):
    pass


class First(Actor[Config]):
    @handles
    async def answer(self, request: Question) -> Nothing:
        return Nothing()

    async def start(self) -> None:
        async with self.waiting("a warm start that takes hours"):
            await asyncio.Event().wait()


class Unable(Actor[Config]):
    others = Ask(Question)

    @classmethod
    def probe(cls, config, shared, base) -> None:
        raise ConfigError("this process has no such device: give the role one")
"""


def test_what_a_process_cannot_do_is_refused_without_waiting_for_what_others_do_first(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    """The role that starts last refuses; the one that it asks, which starts first, takes hours."""
    (tmp_path / "unable.py").write_text(UNABLE)
    (tmp_path / "net.toml").write_text(
        '[roles.first]\nkind = "unable.py:First"\n[roles.last]\nkind = "unable.py:Unable"\n'
        '[wires]\nquestions = "last -> first"\n'
    )
    run = start(tmp_path / "net.toml")
    assert run.wait() == 2
    assert "last/0 cannot go on" in run.output()
    assert "this process has no such device: give the role one" in run.output()


def test_a_role_that_refuses_its_configuration_is_not_tried_again(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "net.toml").write_text('[roles.lonely]\nkind = "wrong.py:Lonely"\n')
    run = start(tmp_path / "net.toml")
    assert run.wait() == 2
    assert "lonely/0 cannot go on" in run.output()
    assert "there is no such model: name another" in run.output()
    assert "would end the same way again" in run.output()
    assert "started again" not in run.output()
