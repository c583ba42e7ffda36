"""The job script and the words for sbatch, from what was asked for: text, nothing is done.

Knows nothing of plans. Called by `submit.py`, `join.py` and `resume.py`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from realnet.config import read_table
from realnet.slurm.records import Submission
from realnet.slurm.site import Site

# What jobs get of the environment of whoever submits, beside what the site and roles name.
EXPORTED = ("HOME", "USER", "LOGNAME", "PATH", "LANG", "LD_LIBRARY_PATH", "SLURM_CONF", "TERM")


def site_of(submission: Submission) -> Site:
    """Return the site that a run was submitted with."""
    return read_table(Site, submission.site, "slurm.json: site")


def job_script(folder: Path, name: str, asked: Submission, secrets: Sequence[str]) -> str:
    """Return the script of the run's own job."""
    site = site_of(asked)
    options = [
        f"--job-name=realnet-{name}",
        f"--nodes={asked.nodes + asked.spares}",
        "--ntasks-per-node=1",
        "--exclusive" if site.exclusive else f"--cpus-per-task={asked.cpus}",
        *_gpus(asked.gpus, site),
        f"--time={minutes(float(site.time))}",
        f"--output={folder}/slurm-%j.log",
        f"--signal=B:USR2@{int(float(site.notice))}",
        "--no-kill",
        *(("--requeue",) if site.again == "requeue" else ("--no-requeue",)),
        *_common(site, secrets),
    ]
    body = [asked.python, "-P", "-m", "realnet.slurm.job", str(folder)]
    return _script(options, site, asked, body)


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
    secrets: Sequence[str],
) -> str:
    """Return the script of an array of elastic hosts for one role, each element a node's share."""
    site = site_of(asked)
    options = [
        f"--job-name=realnet-{name}-{role}",
        f"--array=0-{count - 1}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cpus}",
        *_gpus(gpus, site),
        f"--time={minutes(float(site.time))}",
        f"--output={folder}/slurm-%A_%a.log",
        "--signal=B:USR2@120",
        "--requeue",
        *_common(site, secrets, partition),
    ]
    body = [asked.python, "-P", "-m", "realnet.slurm.element", str(folder), role, str(first)]
    return _script(options, site, asked, body)


def _gpus(num: int, site: Site) -> list[str]:
    if not num:
        return []
    return [f"--gres=gpu:{num}" if site.gpus_as == "gres" else f"--gpus-per-node={num}"]


def _common(site: Site, secrets: Sequence[str], partition: str = "") -> list[str]:
    named = (
        ("partition", partition or site.partition),
        ("account", site.account),
        ("qos", site.qos),
        ("constraint", site.constraint),
        ("exclude", site.exclude),
    )
    export = ",".join(dict.fromkeys([*EXPORTED, *site.export, *secrets]))
    return [
        *(f"--{key}={value}" for key, value in named if value),
        "--open-mode=append",
        f"--export={export}",
        *site.options,
    ]


def _script(options: Sequence[str], site: Site, asked: Submission, body: Sequence[str]) -> str:
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
    lines += [f"module load {shlex.quote(m)}" for m in site.modules]
    lines += site.before
    if asked.path:
        lines.append(f"export PYTHONPATH={shlex.quote(':'.join(asked.path))}")
    if site.ports:
        lines.append(f"export REALNET_PORTS={shlex.quote(site.ports)}")
    if site.scratch:
        lines.append(f"export TMPDIR={shlex.quote(site.scratch)}")
    lines.append(f"exec {shlex.join(body)}")  # exec: signals for the script reach Python itself
    return "\n".join(lines) + "\n"


def minutes(seconds: float) -> int:
    """Return whole minutes, as SLURM counts limits."""
    return max(1, math.ceil(seconds / 60))
