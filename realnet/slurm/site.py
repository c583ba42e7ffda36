"""What is different from one cluster to the next, in one small file outside of topologies.

    partition = "main"          # site.toml; --site FILE, $REALNET_SITE, ./site.toml, or
    account   = "proj42"        # ~/.config/realnet/site.toml
    interface = "ib0"
    modules   = ["cuda/12.4"]
    [pools.rollouts]            # what is otherwise for the nodes of [pools.rollouts] of a topology
    partition = "spot"

Knows nothing of topologies. Called by `submit.py`; jobs read it from slurm.json.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from realnet.config import Config, Seconds, doc, read_table, to_plain
from realnet.errors import ConfigError, listed, nearest
from realnet.launch.ports import read_ports

PLACES = (Path("site.toml"), Path("~/.config/realnet/site.toml"))
ENVIRONMENT = "REALNET_SITE"
_GPUS = "CUDA_VISIBLE_DEVICES"


class Site(Config):
    """The keys of site.toml."""

    partition: Annotated[str, doc("where jobs go; empty: the cluster's default")] = ""
    account: Annotated[str, doc("whose time is spent")] = ""
    qos: Annotated[str, doc("quality of service")] = ""
    constraint: Annotated[str, doc('features that nodes must have, "h100&ib"')] = ""
    exclude: Annotated[str, doc('nodes that are not used, "node[3,7]"')] = ""
    time: Annotated[Seconds, doc("time limit of a job, rounded up to minutes")] = Seconds(3600)
    notice: Annotated[
        Seconds,
        doc("how long before its time limit a run begins to stop (SLURM looks every 30 s)"),
    ] = Seconds(600)
    exclusive: Annotated[bool, doc("whole nodes; false: only the cores and GPUs asked for")] = True
    gpus_as: Annotated[
        Literal["gpus-per-node", "gres"], doc("how this cluster wants GPUs to be asked for")
    ] = "gpus-per-node"
    interface: Annotated[
        str,
        doc('by what nodes try to reach the head first: "ib0", "10.77.0.0/24"; empty: the route'),
    ] = ""
    modules: Annotated[list[str], doc("what is loaded before anything else")] = []
    before: Annotated[list[str], doc("lines of shell in the job before realnet, as they are")] = []
    python: Annotated[
        str, doc("the Python of the nodes; empty: the one that submits, on the shared file system")
    ] = ""
    wrap: Annotated[
        list[str], doc('words before the command of each agent: ["apptainer", "exec", "image"]')
    ] = []
    export: Annotated[list[str], doc("more environment variables that jobs get")] = []
    ports: Annotated[str, doc('where torch meets, "20000-29999"; empty: below the system\'s')] = ""
    scratch: Annotated[str, doc("a folder of each node for temporary files: becomes TMPDIR")] = ""
    unpack: Annotated[
        str,
        doc("an environment (tar) that each node unpacks into `scratch` and takes its Python from"),
    ] = ""
    options: Annotated[list[str], doc('more words for sbatch, ["--reservation=x"]')] = []
    again: Annotated[
        Literal["requeue", "successor", "never"],
        doc("how a run that was stopped goes on: the same job, a new one, or not by itself"),
    ] = "requeue"
    pools: Annotated[
        dict[str, dict[str, Any]],
        doc("[pools.X]: what is otherwise for the nodes of a topology's pool X"),
    ] = {}

    def __post_init__(self) -> None:
        """Refuse what would only be found out by a job, or never."""
        sets = [line for line in self.before if f"{_GPUS}=" in line]
        if sets or any(name.partition("=")[0] == _GPUS for name in self.export):
            raise ValueError(
                f"{'before' if sets else 'export'}: {_GPUS} is given out by SLURM and by the agent "
                "of each node; [roles.X] gpus says how many a process needs"
            )
        for name in self.export:
            if not name.isidentifier():
                raise ValueError(
                    f"export: {name!r} is not the name of an environment variable; what has a "
                    'value here goes into before = ["export NAME=value"]'
                )
        if self.notice >= self.time:
            raise ValueError(
                f"notice: a job that may last {self.time:g} s would be told to stop "
                f"{self.notice:g} s before its end, at once: a longer time, or a shorter notice"
            )
        if self.ports:
            read_ports(self.ports, "ports")


# A job has one of these, whatever nodes it has.
OF_THE_JOB = ("time", "notice", "export", "again", "pools")
KEYS = tuple(f for f in Site.__struct_fields__ if f not in OF_THE_JOB)


def for_pool(site: Site, pool: str, where: str = "slurm.json") -> Site:
    """Return the site as it is for the nodes of a pool. Raises ConfigError."""
    table = site.pools.get(pool, {})
    for key in table:
        if key not in KEYS:
            why = "it is of the whole job" if key in OF_THE_JOB else "no such key"
            raise ConfigError(
                f"{where}: pools.{pool}.{key}: {why}.{nearest(key, KEYS)} A pool may say: "
                f"{listed(KEYS)}"
            )
    plain = {k: v for k, v in to_plain(site).items() if k != "pools"}
    return read_table(Site, {**plain, **table}, f"{where}: pools.{pool}")


def read_site(given: Path | None) -> tuple[Site, Path | None]:
    """Return the site, and its file unless it is the defaults. Raises ConfigError."""
    told = os.environ.get(ENVIRONMENT)
    path = given or (Path(told) if told else None)
    if path is None:
        path = next((p.expanduser() for p in PLACES if p.expanduser().is_file()), None)
    if path is None:
        return Site(), None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    site = read_table(Site, table, str(path))
    for pool in site.pools:
        for_pool(site, pool, str(path))
    return site, path
