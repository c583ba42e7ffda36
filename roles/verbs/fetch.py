"""`realnet fetch FILE`: brings a topology's models and data sets, and pins what they are.

Every "hf:" reference is looked up once, its commit written to `realnet.lock` beside the topology,
and its files brought into the Hugging Face cache (HF_HOME). From then on nothing asks the network:
a machine without one needs the lock file and the cache, shared or copied. With HF_HUB_OFFLINE=1 it
only checks that all is there.

Knows topologies' texts and the hub. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from realnet.errors import ConfigError, LostReference, RealnetError
from realnet.roles.hub.files import model_files, split_files
from realnet.roles.hub.lock import LOCK, Pin, Pins, hub_reference, key_of, read_lock, write_lock
from realnet.roles.hub.place import missing, snapshot
from realnet.topology import read_source

Wanted = tuple[str, str, str]  # kind, reference, where it stands


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override.")
@click.option("--update", is_flag=True, help="Pin the newest commits instead of those in the lock.")
def verb(topology: Path, overrides: tuple[str, ...], update: bool) -> None:
    """Bring the models and data sets of a TOPOLOGY and pin their commits in realnet.lock.

    With HF_HUB_OFFLINE=1: say whether all that is pinned is in the cache.
    """
    from huggingface_hub import constants

    source = read_source(topology, overrides)
    wanted = list(dict.fromkeys(_references(source.tables)))
    if not wanted:
        click.echo(f'{topology}: it names nothing of the hub ("hf:..."): nothing to fetch')
        return
    pins = read_lock(source.base)
    problems: list[str] = []
    for kind, reference, where in wanted:
        key = key_of(kind, reference)
        try:
            if constants.HF_HUB_OFFLINE:
                pin = _offline(pins, kind, reference, where)
            else:
                pin = _fetch(kind, reference, where, None if update else pins.get(key))
                pins[key] = pin
                write_lock(source.base, pins)
        except RealnetError as error:
            problems.append(str(error))
            continue
        size = sum((snapshot(pin) / name).stat().st_size for name in pin.files)
        text = f"{reference} = {pin.commit[:12]}, {len(pin.files)} files, {size / 1e6:.1f} MB"
        click.echo(f"{text}: {snapshot(pin)}")
    if problems:
        raise LostReference("\n".join(problems))
    click.echo(f"{source.base / LOCK}: {len(wanted)} pinned")


def _references(tables: Mapping[str, Any], path: str = "") -> Iterator[Wanted]:
    """Yield every reference to the hub that a topology writes; those of `data` are data sets."""
    for name, value in tables.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from _references(value, here)
        elif isinstance(value, str) and value.startswith("hf:"):
            kind = "dataset" if name == "data" else "model"
            table, _, key = here.rpartition(".")
            yield kind, value, f"[{table}].{key}"


def _offline(pins: Pins, kind: str, reference: str, where: str) -> Pin:
    """Return what is pinned, when it is whole in the cache. Raises LostReference."""
    pin = pins.get(key_of(kind, reference))
    if pin is None:
        raise LostReference(
            f'{where} = "{reference}": it is not pinned in {LOCK}, and HF_HUB_OFFLINE is set: '
            "fetch it where there is a network, and bring the lock file and the cache"
        )
    lost = missing(pin)
    if lost:
        raise LostReference(
            f'{where} = "{reference}": {len(lost)} of {len(pin.files)} files are not in the cache '
            f"({lost[0]}, in {snapshot(pin)}), and HF_HUB_OFFLINE is set: bring the cache (HF_HOME)"
        )
    return pin


def _fetch(kind: str, reference: str, where: str, known: Pin | None) -> Pin:
    """Bring what a reference means; `known` is what it was pinned to. Raises RealnetError."""
    parts = hub_reference(reference)
    repo, opening = f"{parts.owner}/{parts.name}", f'{where} = "{reference}"'
    if kind == "model" and (parts.subset or parts.split):
        raise ConfigError(f"{opening}: a model has no subset and no split: hf:owner/name[@rev]")
    revision = known.commit if known else parts.rev or "main"
    try:
        return _bring(kind, repo, revision, parts.subset, parts.split or "train", opening)
    except RealnetError:
        raise
    except Exception as error:  # the hub's client raises those of its HTTP library, and others
        raise RealnetError(
            f"{opening}: it could not be brought: {type(error).__name__}: {_line(error)}. Is it "
            "spelled so, is there a network, may you read it? (HF_ENDPOINT names another hub)"
        ) from None


def _bring(kind: str, repo: str, revision: str, subset: str, split: str, opening: str) -> Pin:
    from huggingface_hub import HfApi, snapshot_download

    info: Any = HfApi().repo_info(repo, repo_type=kind, revision=revision)
    commit = str(info.sha)
    names = [sibling.rfilename for sibling in info.siblings or []]

    def bring(files: tuple[str, ...]) -> Path:
        return Path(
            snapshot_download(
                repo, repo_type=kind, revision=commit, allow_patterns=[_literal(f) for f in files]
            )
        )

    if kind == "model":
        files = model_files(names, opening)
    else:
        readme = ""
        if "README.md" in names:
            readme = (bring(("README.md",)) / "README.md").read_text("utf-8", errors="replace")
        files = split_files(names, readme, subset, split, opening)
    bring(files)
    pin = Pin(repo, kind, commit, files)
    if lost := missing(pin):
        raise RealnetError(f"{opening}: the hub did not bring {', '.join(lost)}")
    return pin


def _literal(name: str) -> str:
    """Return a pattern that only this name matches."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
