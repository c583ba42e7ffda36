"""What a job takes along to its nodes: folders that all of them must see, code, Python, secrets.

What lies where each node has a file system of its own is refused on the login node, before a job
waits for its turn. Knows nothing of scripts. Called by `submit.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import realnet
from realnet.errors import ConfigError
from realnet.slurm.site import Site
from realnet.topology.plan import Plan

LOCAL = ("/tmp", "/dev/shm", "/var/tmp", "/run")
SHARED = "REALNET_SHARED_TMP"  # says that these are shared here after all


def refuse_what_cannot_travel(folder: Path, plan: Plan, sites: Iterable[Site]) -> None:
    """Refuse what no other node can see, or what is not there. Raises ConfigError."""
    needed = {
        f"the run's folder {folder}": (folder, "--runs says where runs go"),
        f"the topology's folder {plan.base}": (Path(plan.base), "move it"),
        f"realnet itself, {code_home()},": (code_home(), "move the checkout"),
    }
    for site in sites:
        if site.unpack and not Path(site.unpack).is_file():
            raise ConfigError(f"unpack = {site.unpack!r} in the site file: there is no such file")
        if site.unpack:
            needed[f"the environment {site.unpack}"] = (Path(site.unpack), "move it")
        elif not site.wrap:  # in a container there may be another one of this name
            python = python_of(site)
            needed[f"the Python {python}"] = (Path(python), "`python` in the site file says which")
    if os.environ.get(SHARED):
        return
    for what, (path, hint) in needed.items():
        for local in LOCAL:
            if path.is_relative_to(local):
                raise ConfigError(
                    f"{what} is in {local}, which each node has for itself: {hint}, on the shared "
                    f"file system ({SHARED}=1 if it is one)"
                )


def python_of(site: Site) -> str:
    """Return the Python that jobs run with."""
    return site.python or sys.executable


def code_home() -> Path:
    """Return the folder that this realnet is in."""
    return Path(realnet.__file__).parent.parent


def code_path() -> list[str]:
    """Return where jobs find this realnet, and what else the one who submits has in PYTHONPATH."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys(p for p in (str(code_home()), *given) if p))


def secrets_of(plan: Plan) -> list[str]:
    """Return the names of the environment variables that roles need."""
    return sorted({s for r in plan.roles.values() for s in r.secrets})
