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
