"""The verbs that installed packages add to the command line.

A verb is a click command named in the entry point group "realnet.verbs"; `realnet try` and the
other verbs that need models come from `realnet.roles` this way. One is imported when it is used
or helped with, so that `realnet ls` stays light.

Knows nothing of what verbs do. Called by `cli.py`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from realnet.errors import LostReference

GROUP = "realnet.verbs"


def registered_verbs() -> dict[str, EntryPoint]:
    """Return name -> entry point of every verb that a package added."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_verb(point: EntryPoint) -> click.Command:
    """Return the command; one that cannot be loaded says so when it is used, not in every help."""
    origin = point.dist.name if point.dist is not None else "an installed package"
    try:
        command = point.load()
    except (ImportError, AttributeError) as error:
        return _lost(
            point.name,
            f"{origin} says it is {point.value}, which cannot be loaded: {error}. Install what is "
            "missing, for instance: pip install 'realnet-rl[train]'",
        )
    if not isinstance(command, click.Command):
        return _lost(point.name, f"{point.value} of {origin} is no click command: {command!r}")
    return command


def _lost(name: str, why: str) -> click.Command:
    @click.command(
        name,
        context_settings={"ignore_unknown_options": True},
        short_help="(cannot be loaded)",
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
    )
    def tell(words: tuple[str, ...]) -> None:
        raise LostReference(f"realnet {name}: {why}")

    return tell
