"""Verbs that packages add: found, loaded when used, and a broken one disturbs nobody."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from realnet import cli_verbs
from realnet.cli import main
from realnet.cli_verbs import GROUP


@click.command()
@click.argument("word")
def shout(word: str) -> None:
    """Say it loudly."""
    click.echo(word.upper())


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("shout", f"{__name__}:shout", GROUP),
        EntryPoint("gone", "realnet.no_such_module:verb", GROUP),
        EntryPoint("wrong", f"{__name__}:GROUP", GROUP),
        EntryPoint("ls", f"{__name__}:shout", GROUP),
    ]
    monkeypatch.setattr(cli_verbs, "entry_points", lambda group: points)


def test_an_added_verb_runs_and_is_in_the_help() -> None:
    assert CliRunner().invoke(main, ["shout", "here"]).output == "HERE\n"
    help_text = CliRunner().invoke(main, ["--help"]).output
    assert "Say it loudly." in help_text


@pytest.mark.parametrize(
    ("verb", "why"), [("gone", "no_such_module"), ("wrong", "no click command")]
)
def test_a_broken_verb_says_so_only_when_it_is_used(verb: str, why: str) -> None:
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    told = CliRunner().invoke(main, [verb, "--any", "thing"])
    assert told.exit_code == 2
    assert f"realnet {verb}" in told.stderr
    assert why in told.stderr


def test_a_package_cannot_take_the_place_of_an_own_verb() -> None:
    assert CliRunner().invoke(main, ["ls", "word"]).output != "WORD\n"
