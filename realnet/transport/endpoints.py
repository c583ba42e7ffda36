"""Endpoints as text: where each inbox of a process is, lane by lane, and its door for guests.

    tcp://HOST:PORT,PORT,PORT;PORT      an inbox for each lane; the door after the semicolon
    ipc://FOLDER/NAME,1,2;door          NAME, NAME.1, NAME.2 and NAME.door in one folder

    tcp://HOST:PORT,PORT,PORT;PORT ipc://FOLDER/NAME,1,2      the second for those of its own host

A process that cannot be reached (it only dials out) has the empty text. Knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Endpoint(NamedTuple):
    """The addresses of one process. `door` is empty when it takes no guests."""

    inboxes: tuple[str, ...]
    door: str


def parse_endpoint(text: str) -> Endpoint:
    """Return the addresses in an endpoint's text, of its far part if it has two.

    For the empty text there are none.
    """
    text, _ = both_parts(text)
    if not text:
        return Endpoint((), "")
    lanes, _, door = text.partition(";")
    if lanes.startswith("tcp:"):
        host, _, ports = lanes.rpartition(":")
        return Endpoint(
            tuple(f"{host}:{port}" for port in ports.split(",")), f"{host}:{door}" if door else ""
        )
    folder, slash, names = lanes.rpartition("/")
    first, *others = names.split(",")
    path = f"{folder}{slash}{first}"
    return Endpoint((path, *(f"{path}.{o}" for o in others)), f"{path}.{door}" if door else "")


def both_parts(text: str) -> tuple[str, str]:
    """Return the part of an endpoint's text for all, and that for its own host, or ""."""
    if not text.startswith("tcp:"):
        return text, ""  # a folder's name may have blanks
    far, _, near = text.partition(" ")
    return far, near


def joined_parts(far: str, near: str) -> str:
    """Return the text of one endpoint with both parts."""
    return f"{far} {near}"


def endpoint_text(inboxes: Sequence[str], door: str = "") -> str:
    """Return the text of addresses that were bound."""
    if inboxes[0].startswith("tcp:"):
        text = ",".join([inboxes[0], *(b.rpartition(":")[2] for b in inboxes[1:])])
        return f"{text};{door.rpartition(':')[2]}" if door else text
    text = ",".join([inboxes[0], *(str(n) for n in range(1, len(inboxes)))])
    return f"{text};door" if door else text


def bind_address(endpoint: str, lane: int) -> str:
    """Return what a lane of a new process binds. A system-chosen tcp port is one for each lane."""
    return endpoint if endpoint.startswith("tcp:") or not lane else f"{endpoint}.{lane}"


def door_address(endpoint: str) -> str:
    """Return what the door of a new process binds."""
    return endpoint if endpoint.startswith("tcp:") else f"{endpoint}.door"
