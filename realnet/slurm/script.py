"""The job script and the words for sbatch, from what was asked for: text, nothing is done.

Knows nothing of plans. Called by `submit.py`, and by jobs for the words of their own parts.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from realnet.config import read_table
from realnet.errors import ConfigError
from realnet.exits import EXIT_NEVER
from realnet.launch.checks import SCRATCH
from realnet.slurm.records import Submission
from realnet.slurm.site import Site, for_pool

_UNPACK = Path(__file__).with_name("unpack.sh")
# What jobs get of the environment of whoever submits, beside what the site and roles name.
EXPORTED = (
    *("HOME", "USER", "LOGNAME", "PATH", "LANG", "LD_LIBRARY_PATH", "SLURM_CONF", "TERM"),
    *("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"),  # where `realnet fetch` has put things
)
# Nodes need no network: what a run names of the hub was fetched. A site may say otherwise.
OFFLINE = "export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}"
# `module` is a function of login shells; the shell of a job is none.
LOGIN = "type module >/dev/null 2>&1 || . /etc/profile"
# A signal that comes before Python listens would end the script, and a job that ends by itself is
# not started again.
NOT_YET = "trap '' USR2"


def site_of(submission: Submission) -> Site:
    """Return the site that a run was submitted with."""
    return read_table(Site, submission.site, "slurm.json: site")


def python_words(site: Site, python: str) -> list[str]:
    """Return the words that start the Python of a node, which may have to be unpacked first."""
    if not site.unpack:
        return [site.python or python]
    return ["bash", str(_UNPACK), site.unpack, site.scratch or "/tmp"]


def job_script(folder: Path, name: str, asked: Submission, secrets: Sequence[str]) -> str:
    """Return the script of the run's own job: one part of it for each kind of nodes."""
    site = site_of(asked)
    whole = [
        _word(f"--job-name=realnet-{name}"),
        _word(f"--output={in_a_pattern(folder)}/slurm-%j.log"),
        f"--signal=B:USR2@{int(float(site.notice))}",
        "--open-mode=append",
        f"--export={_exported(site, secrets)}",
    ]
    parts = []
    for part in asked.kinds():
        own = for_pool(site, part.pool)
        parts.append(
            [
                f"--nodes={part.nodes + part.spares}",
                "--ntasks-per-node=1",
                *_cores(part.cpus, own),
                *_gpus(part.gpus, own),
                f"--time={minutes(float(site.time))}",
                "--no-kill",
                "--requeue" if site.again == "requeue" else "--no-requeue",
                *_where(own),
            ]
        )
    parts[0] = [*whole, *parts[0]]
    first = for_pool(site, asked.kinds()[0].pool)  # the head lives on the first node
    body = [*python_words(first, asked.python), "-P", "-m", "realnet.slurm.job", str(folder)]
    return _script(parts, first, asked, body)


def node_script(site: Site) -> str:
    """Return what the agent's command is started by on nodes that are not of the first kind."""
    return "\n".join(["#!/bin/bash", *_before(site), 'exec "$@"']) + "\n"


def node_script_path(folder: Path, pool: str) -> Path:
    """Return where the script for the nodes of a pool is."""
    return folder / f"node-{pool}.sh"


def array_script(
    folder: Path,
    name: str,
    asked: Submission,
    role: str,
    first: int,
    count: int,
    gpus: int,
    cpus: int,
    partition: str,
    pool: str,
    secrets: Sequence[str],
) -> str:
    """Return the script of an array of elastic hosts for one role, each element a node's share."""
    site = for_pool(site_of(asked), pool)
    options = [
        _word(f"--job-name=realnet-{name}-{role}"),
        _word(f"--output={in_a_pattern(folder)}/slurm-%A_%a.log"),
        "--open-mode=append",
        f"--export={_exported(site, secrets)}",
        f"--array=0-{count - 1}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cpus}",
        *_gpus(gpus, site),
        f"--time={minutes(float(site.time))}",
        f"--signal=B:USR2@{int(min(120.0, float(site.notice)))}",
        "--requeue",
        *_where(site, partition),
    ]
    python = python_words(site, asked.python)
    body = [*python, "-P", "-m", "realnet.slurm.element", str(folder), role, str(first), pool]
    return _script([options], site, asked, body)


def _cores(num: int, site: Site) -> list[str]:
    """Whole nodes, but none that has fewer cores than were counted on; or just the cores."""
    return ["--exclusive", f"--mincpus={num}"] if site.exclusive else [f"--cpus-per-task={num}"]


def _gpus(num: int, site: Site) -> list[str]:
    if not num:
        return []
    return [f"--gres=gpu:{num}" if site.gpus_as == "gres" else f"--gpus-per-node={num}"]


def _where(site: Site, partition: str = "") -> list[str]:
    named = (
        ("partition", partition or site.partition),
        ("account", site.account),
        ("qos", site.qos),
        ("constraint", site.constraint),
        ("exclude", site.exclude),
    )
    return [*(_word(f"--{key}={value}") for key, value in named if value), *site.options]


def in_a_pattern(path: Path) -> str:
    """Return a path as SLURM takes it where %j and the like mean something. Raises ConfigError."""
    if "\\" in str(path):
        raise ConfigError(f"{path}: SLURM takes no file whose path has a \\ in it: --runs, --name")
    return str(path).replace("%", "%%")


def _word(option: str) -> str:
    """Return an option as one word of an #SBATCH line: a blank ends one there, # all of them."""
    if re.fullmatch(r"[^\s'\"#\\]*", option):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _exported(site: Site, secrets: Sequence[str]) -> str:
    return ",".join(dict.fromkeys([*EXPORTED, *site.export, *secrets]))


def _script(
    parts: Sequence[Sequence[str]], site: Site, asked: Submission, body: Sequence[str]
) -> str:
    lines = ["#!/bin/bash"]
    for number, options in enumerate(parts):
        lines += ["#SBATCH hetjob"] * bool(number)
        lines += [f"#SBATCH {option}" for option in options]
    lines += [OFFLINE, *_before(site)]
    if asked.path:
        lines.append(f"export PYTHONPATH={shlex.quote(':'.join(asked.path))}")
    lines.append(NOT_YET)
    lines.append(f"exec {shlex.join(body)}")  # exec: signals for the script reach Python itself
    return "\n".join(lines) + "\n"


def _before(site: Site) -> list[str]:
    lines = [LOGIN] * bool(site.modules)
    lines += [f"module load {shlex.quote(m)} || exit {EXIT_NEVER}" for m in site.modules]
    lines += site.before
    if site.ports:
        lines.append(f"export REALNET_PORTS={shlex.quote(site.ports)}")
    if site.scratch:
        where = shlex.quote(site.scratch)
        lines.append(f"export TMPDIR={where} {SCRATCH}={where}")
    return lines


def minutes(seconds: float) -> int:
    """Return whole minutes, as SLURM counts limits."""
    return max(1, math.ceil(seconds / 60))
