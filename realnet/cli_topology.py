"""The verbs that look at topology files: check, plan, explain, schema, init. They start nothing.

Knows nothing of roles. Registered by `cli.py`.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from realnet.starter import start_project
from realnet.topology import Plan, read_source, resolve
from realnet.topology.catalogue import classes_of
from realnet.topology.draw import graph_of, mermaid, svg, terminal
from realnet.topology.explain import explain as told
from realnet.topology.explain import written
from realnet.topology.placement import Host, place_on, placement_lines
from realnet.topology.schema import topology_schema
from realnet.topology.show import describe
from realnet.topology.source import shipped

file_argument = click.argument("topology", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one value."
)
_DRAWINGS = {"terminal": terminal, "mermaid": mermaid, "svg": svg}


def _counted(number: int, what: str, several: str = "s") -> str:
    return f"{number} {what}{several if number != 1 else ''}"


@click.command()
@file_argument
@set_option
def check(topology: Path, overrides: tuple[str, ...]) -> None:
    """Read a topology and say everything that is wrong with it."""
    plan = resolve(read_source(topology, overrides))
    click.echo(
        f"{topology}: in order ({_counted(len(plan.roles), 'role')}, "
        f"{_counted(len(plan.slots), 'process', 'es')}, {_counted(len(plan.wires), 'wire')})"
    )


@click.command()
@file_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print plan.json instead.")
@click.option("--graph", type=click.Choice(sorted(_DRAWINGS)), help="Draw the roles and wires.")
@click.option("--nodes", default=0, help="Also show who lives where on so many hosts.")
@click.option("--spares", default=0, help="With --nodes: so many more, for when one is lost.")
@click.option("--node-gpus", default=0, help="With --nodes: GPUs of each; 0: as many as needed.")
@click.option("--node-cpus", default=0, help="With --nodes: cores of each; 0: not looked at.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def plan(
    topology: Path,
    overrides: tuple[str, ...],
    as_json: bool,
    graph: str | None,
    nodes: int,
    spares: int,
    node_gpus: int,
    node_cpus: int,
    output: Path | None,
) -> None:
    """Show processes, wires, limits and order of a topology without starting anything."""
    made = resolve(read_source(topology, overrides))
    text = _planned(made, as_json, graph)
    if nodes:
        placement = place_on(made, nodes, spares, Host("", node_cpus, node_gpus))
        text += "\n".join(["", "hosts", *(f"  {x}" for x in placement_lines(placement)), ""])
    _write(text, output)


def _planned(made: Plan, as_json: bool, graph: str | None) -> str:
    if as_json:
        return msgspec.json.format(msgspec.json.encode(made), indent=1).decode() + "\n"
    return _DRAWINGS[graph](graph_of(made)) if graph else describe(made)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="[TOPOLOGY] [KEY]")
@set_option
def explain(what: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Say what a KEY (trainer.lr, roles.X.count, wires) is; with a TOPOLOGY also its value there,
    and which file wrote it. Without a KEY: every value and its file.
    """
    files = [word for word in what if word.endswith(".toml") or Path(word).is_file()]
    files = files or [word for word in what[: 2 if len(what) > 1 else 1] if shipped(word)][:1]
    keys = [word for word in what if word not in files]
    if len(files) > 1 or len(keys) > 1:
        raise click.UsageError("one topology and one key at most")
    source = read_source(Path(files[0]), overrides) if files else None
    if source is not None and not keys:
        click.echo("\n".join(written(source)))
    else:
        click.echo(told(keys[0], source), nl=False)


@click.command()
@click.argument("topology", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def schema(topology: Path | None, output: Path | None) -> None:
    """Print the JSON schema of topology files for an editor; with a TOPOLOGY also its own roles."""
    own = classes_of(read_source(topology)) if topology else None
    _write(_json(topology_schema(own)), output)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"{output}: written")


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
def init(name: Path) -> None:
    """Make a folder NAME with a new project: a topology, one role, one test."""
    for path in start_project(name):
        click.echo(path)
    click.echo(f"go on with: cd {name} && realnet run topology.toml")


VERBS = (check, plan, explain, schema, init)
