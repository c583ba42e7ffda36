"""The measured programs: what each is, how it is started, what it measures.

Every start is fresh processes; all of them end with it. Knows nothing of ratios or tables. Called
by `run.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from measure import Rows

BENCH = Path(__file__).resolve().parent
LIMIT_S = 180.0
_PLAIN = ("w1", "w64", "a256k", "a8m")


class Scale(NamedTuple):
    """How much is measured. `seconds` is for each measure."""

    seconds: float = 1.0
    bulk_bytes: int = 2**30
    kills: int = 3


class Variant(NamedTuple):
    """One measured program. Without a `peer` it is realnet; with `apart` it needs .venv-bench."""

    name: str
    peer: str = ""
    env: tuple[tuple[str, str], ...] = ()
    measures: tuple[str, ...] = _PLAIN
    settings: tuple[str, ...] = ()
    apart: bool = False


_ALL = ("w1", "w64", "w1024", "a256k", "a8m", "bulk", "kill")
_FLOOR = ("w1", "w64", "w1024", "a256k", "a8m")
TCP = 'run.transport="tcp"'  # and with it keys: security is curve unless somebody says otherwise
PURE = (("REALNET_COMPILED", "0"),)  # the sources alone; the others run what `make compile` made
VARIANTS = (
    Variant("realnet", measures=_ALL),
    Variant("realnet_tcp", measures=_ALL, settings=(TCP,)),
    Variant("realnet_inproc", measures=("w64",), settings=('roles.server.place="client"',)),
    Variant("realnet_pure", env=PURE, measures=("w1", "w64", "w1024")),
    Variant(
        "realnet_inproc_pure",
        env=PURE,
        measures=("w64",),
        settings=('roles.server.place="client"',),
    ),
    Variant("raw", "raw_zmq", measures=_FLOOR),
    Variant("raw_tcp", "raw_zmq", (("RAW", "tcp"),), measures=_FLOOR),
    Variant("zmq_asyncio", "zmq_asyncio"),
    Variant("grpc_unary", "grpc_aio", (("GRPC", "unary"),), apart=True),
    Variant("grpc_bidi", "grpc_aio", (("GRPC", "bidi"),), apart=True),
    Variant("xoscar", "xoscar_pool", apart=True),
    Variant("ray_sync", "ray_actor", (("RAY", "sync"),), apart=True),
    Variant("ray_async", "ray_actor", (("RAY", "async"),), apart=True),
    Variant("monarch", "monarch_mesh", apart=True),
)


class Failed(Exception):
    """A program ended without rows; the text is the end of what it said."""


def run_variant(variant: Variant, scale: Scale, apart: Path) -> Rows:
    """Run one program and return its rows. `apart` is the Python of the peers. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        out = Path(folder) / "rows.json"
        if variant.peer:
            command = [
                str(apart if variant.apart else sys.executable),
                *(str(BENCH / "peers" / f"{variant.peer}.py"), str(out)),
                *("--seconds", str(scale.seconds), "--measures", ",".join(variant.measures)),
            ]
            return run_program(command, out, dict(variant.env))
        settings = (
            *variant.settings,
            f'roles.client.measures="{",".join(variant.measures)}"',
            f"roles.client.seconds={scale.seconds}",
            f"roles.client.bulk={scale.bulk_bytes}",
            f"roles.client.kills={scale.kills}",
        )
        return run_realnet("wire", "client", out, settings, dict(variant.env))


def run_realnet(
    topology: str,
    writer: str,
    out: Path,
    settings: tuple[str, ...],
    env: dict[str, str] | None = None,
) -> Rows:
    """Run a topology of this folder the ordinary way; role `writer` writes the rows to `out`."""
    sets = [w for s in (*settings, f'roles.{writer}.out="{out}"') for w in ("--set", s)]
    command = [
        *(sys.executable, "-P", "-m", "realnet.cli", "run", str(BENCH / f"{topology}.toml")),
        *("--runs", str(out.parent / "runs"), *sets),
    ]
    return run_program(command, out, env or {}, limit_s=10 * LIMIT_S)


def run_program(
    command: list[str], out: Path, env: dict[str, str], limit_s: float = LIMIT_S
) -> Rows:
    """Run a command to its end and read the rows that it wrote. Raises Failed."""
    log = out.with_suffix(".log")
    paths = os.pathsep.join(p for p in (str(BENCH), os.environ.get("PYTHONPATH", "")) if p)
    own = {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(out.parent),  # what it leaves behind goes with the folder
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own, **env},
            start_new_session=True,
        )
    why = ""
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        why = f"still going after {limit_s:g} s\n"
    finally:
        with contextlib.suppress(ProcessLookupError):  # whoever it left behind goes as well
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not out.is_file():
        said = log.read_text(errors="replace").splitlines()[-15:]
        raise Failed(f"{why}{' '.join(command[:4])} ... wrote no rows:\n" + "\n".join(said))
    rows: Rows = json.loads(out.read_text(encoding="utf-8"))
    return rows
