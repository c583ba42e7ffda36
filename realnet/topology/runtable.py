"""The framework's own part of [run]: views, patience, and how processes are linked.

Knows nothing of roles. Called by `resolve.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from realnet.config import Config, Seconds, doc, read_table, to_plain
from realnet.errors import ConfigError
from realnet.liveness import BEAT_S
from realnet.references import Reference

LEAST_BOOT_S = 1.0


class RunTable(Config):
    """The framework's own keys of [run]."""

    report: Annotated[
        str, doc('what writes report.html: "pkg.mod:function"'), Reference("code")
    ] = ""
    view: Annotated[str, doc('what draws the live view: "pkg.mod:Class"'), Reference("code")] = ""
    suspect: Annotated[Seconds, doc("silence after which an instance is suspected")] = Seconds(3)
    hung: Annotated[Seconds, doc("silence after which it is killed and restarted")] = Seconds(15)
    boot: Annotated[
        Seconds, doc("how long a process may take to load and join before that counts as a death")
    ] = Seconds(180)
    stall: Annotated[
        Seconds,
        doc("how long nothing may progress in the whole run before that is reported; 0: no limit"),
    ] = Seconds(600)
    grace: Annotated[Seconds, doc("how long an orderly stop may take")] = Seconds(25)
    closing: Annotated[
        Seconds, doc("how long the last work (a final evaluation) may take after a good end")
    ] = Seconds(600)
    host_lost: Annotated[
        Seconds, doc("silence of a host's agent after which that host is lost with all on it")
    ] = Seconds(3)
    host_lease: Annotated[
        Seconds,
        doc("how long an agent that does not hear the head goes on; longer than host_lost"),
    ] = Seconds(6)
    host_idle: Annotated[
        Seconds,
        doc("how long a host that came for elastic members may have none, until it is given back"),
    ] = Seconds(60)
    gather: Annotated[
        Seconds, doc("how long all hosts may take to come at the start, of a run over several")
    ] = Seconds(60)
    transport: Annotated[
        Literal["ipc", "tcp"], doc("what links processes: sockets in a private folder, or tcp")
    ] = "ipc"
    host: Annotated[str, doc("with tcp, the one address that processes listen on")] = "127.0.0.1"
    guests: Annotated[
        bool,
        doc("whether realnet.Node, in a process from outside, may join (over tcp: with a key)"),
    ] = True
    security: Annotated[
        Literal["auto", "curve", "none"],
        doc("keys for every process: auto is curve on tcp; ipc has its file permissions"),
    ] = "auto"
    bulk: Annotated[
        Literal["signed", "encrypted"],
        doc(
            "asks with large arrays, over tcp with keys: signed (who reads along sees them, but "
            "cannot change or add any), or encrypted like all else, at a fourth of the rate"
        ),
    ] = "signed"


def read_run_table(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the plain values, `security` decided. Raises ConfigError."""
    run = read_table(RunTable, table, where)
    values = to_plain(run)
    if run.security == "auto":
        values["security"] = "curve" if run.transport == "tcp" else "none"
    try:
        address = ipaddress.IPv4Address(run.host)
    except ValueError:
        raise ConfigError(
            f"{where}.host = {run.host!r}: write the IPv4 address of one interface"
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise ConfigError(
            f"{where}.host = {run.host!r}: processes listen on one address, never on all; write "
            "that of the interface that the others reach"
        )
    if run.suspect < 2 * BEAT_S:
        raise ConfigError(
            f"{where}.suspect = {run.suspect:g} s: processes beat every {BEAT_S:g} s, so at least "
            f"{2 * BEAT_S:g} s"
        )
    if run.hung <= run.suspect:
        raise ConfigError(
            f"{where}.hung = {run.hung:g} s: longer than suspect = {run.suspect:g} s, or who is "
            "late once is killed"
        )
    if run.boot < LEAST_BOOT_S:
        raise ConfigError(
            f"{where}.boot = {run.boot:g} s: a process cannot load and join in less than "
            f"{LEAST_BOOT_S:g} s; the default is 180 s"
        )
    if run.host_lease <= run.host_lost:
        raise ConfigError(
            f"{where}.host_lease = {run.host_lease:g} s: longer than host_lost = "
            f"{run.host_lost:g} s, or an agent gives up a head that still waits for it"
        )
    if run.transport == "tcp" and run.security == "none" and not address.is_loopback:
        raise ConfigError(
            f'{where}.security = "none": without keys anybody who reaches {run.host} could take '
            "part; leave it out, or listen on 127.0.0.1"
        )
    return values
