"""The verbs that look at topology files: check, plan, explain, schema, init. They start nothing.

Knows nothing of roles. Registered by `cli.py`.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from realnet.topology import Plan, read_source, resolve
from realnet.topology.draw import graph_of, mermaid, svg, terminal
from realnet.topology.show import describe

file_argument = click.argument("topology", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one value."
)
_DRAWINGS = {"terminal": terminal, "mermaid": mermaid, "svg": svg}


@click.command()
@file_argument
@set_option
def check(topology: Path, overrides: tuple[str, ...]) -> None:
    """Read a topology and say everything that is wrong with it."""
    plan = resolve(read_source(topology, overrides))
    click.echo(
        f"{topology}: in order ({len(plan.roles)} roles, {len(plan.slots)} processes, "
        f"{len(plan.wires)} wires)"
    )


@click.command()
@file_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print plan.json instead.")
@click.option("--graph", type=click.Choice(sorted(_DRAWINGS)), help="Draw the roles and wires.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def plan(
    topology: Path,
    overrides: tuple[str, ...],
    as_json: bool,
    graph: str | None,
    output: Path | None,
) -> None:
    """Show processes, wires, limits and order of a topology without starting anything."""
    text = _planned(resolve(read_source(topology, overrides)), as_json, graph)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"{output}: written")


def _planned(made: Plan, as_json: bool, graph: str | None) -> str:
    if as_json:
        return msgspec.json.format(msgspec.json.encode(made), indent=1).decode() + "\n"
    return _DRAWINGS[graph](graph_of(made)) if graph else describe(made)


VERBS = (check, plan)
