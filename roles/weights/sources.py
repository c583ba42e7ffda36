"""Which of a version's sources is nearest, decided without IO.

    the trainer's GPU, if it is ours too, then shm on this host, then a collective update, then a
    stream, then a file

A host with a living relay takes versions from that alone, so that one copy crosses the network:
until it has one, there is nothing to take.

Knows records; knows nothing of how a link works. Called by receivers, relays and the parameter
server.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from pathlib import Path

from realnet.roles.messages import Announced, Held, Source

ORDER = ("cuda_ipc", "shm", "nccl", "gloo", "stream", "disk")
HOST = "REALNET_HOST"


WHEN = {
    "cuda_ipc": "cuda_ipc, out of the trainer's GPU, where a generator works on the same one",
    "shm": "shm on this role's own host",
    "nccl": "nccl, a broadcast to all GPUs that are there",
    "gloo": "gloo, a broadcast to all that are there",
    "stream": "stream from any host, late comers too",
    "disk": "disk, a file in the run's folder",
}


def links_in_words(
    links: Collection[str], relays: Collection[str], *, adapters: bool = False
) -> list[str]:
    """Return how versions will be had, for `realnet plan`.

    `relays` are the roles that relay; with `adapters` that is what versions are of.
    """
    order = [WHEN[link] for link in ORDER if link in links]
    told = [f"versions are had by the first that does: {'; '.join(order)}"]
    if adapters:
        once = [link for link in ("shm", "stream", "disk") if link in links]
        told.append(
            "versions are of adapters alone; what they are laid over goes once, by "
            f"{' or '.join(once) or 'nothing: add stream to links'}"
        )
    if relays:
        told.append(
            f"on a host with {' or '.join(sorted(relays))} that alone takes a version over the "
            "network: one copy crosses, and all others there have it by shm"
        )
    return told


@functools.cache
def this_host() -> str:
    """Return the name of what shares our memory: one kernel, one table of processes.

    REALNET_HOST says another, for tests that want two hosts where there is one.
    """
    told = os.environ.get(HOST)
    if told:
        return told
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{kernel[:8]}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return os.uname().nodename


def sources_of(held: Held, host: str) -> tuple[Source, ...]:
    """Return how a version can be had; one without sources is in the memory of this host."""
    return held.sources or (Source("shm", host, "", held.location),)


def nearest(held: Held, host: str, links: Collection[str] = ORDER) -> list[Source]:
    """Return the sources that a host can use, the nearest first. `links` are those it can take."""
    usable = [
        s
        for s in sources_of(held, host)
        if s.link in links and (not s.host or s.host == host) and s.link in ORDER
    ]
    return sorted(usable, key=lambda s: ORDER.index(s.link))


def ready(announced: Announced, held: Held, host: str) -> bool:
    """Tell whether a version should be taken now, or its copy on this host be waited for."""
    if host not in announced.relays:
        return True
    return any(s.link == "shm" and s.host == host for s in sources_of(held, host))
