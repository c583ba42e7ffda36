"""Which address of this host others reach: by the name of an interface, or by the way to another.

Knows nothing of runs. Used by `agent.py`, and by whoever starts a head for several hosts.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct

from realnet.errors import ConfigError, listed

_SIOCGIFADDR = 0x8915


def addresses() -> dict[str, str]:
    """Return the IPv4 address of each interface of this host, loopback left out."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()[:15]))
            try:
                fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request, True)
            except OSError:  # it has none
                continue
            address = socket.inet_ntoa(request.tobytes()[20:24])
            if not ipaddress.IPv4Address(address).is_loopback:
                found[name] = address
    return found


# Names of networks that live inside a host only: their addresses are tried last.
_INNER = ("docker", "virbr", "br-", "veth", "cni", "lxc", "podman", "flannel", "cali")


def addresses_to_try(first: str) -> tuple[str, ...]:
    """Return the addresses of this host by which others may reach it, beside `first`; those of
    networks inside of it last, and none that only a single link knows.
    """
    known = sorted(addresses().items(), key=lambda item: item[0].startswith(_INNER))
    usable = (a for _, a in known if not ipaddress.IPv4Address(a).is_link_local)
    return tuple(dict.fromkeys(a for a in usable if a != first))


def address_towards(other: str) -> str:
    """Return the address that this host has on the way to another. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # nothing is sent
        return str(probe.getsockname()[0])


def address_on(wanted: str) -> str:
    """Return this host's address on an interface ("ib0") or in a network ("10.77.0.0/24").

    Raises ConfigError naming what there is.
    """
    known = addresses()
    if wanted in known:
        return known[wanted]
    try:
        network = ipaddress.IPv4Network(wanted, strict=False)
    except ValueError:
        network = None
    for address in known.values():
        if network is not None and ipaddress.IPv4Address(address) in network:
            return address
    have = [f"{name} ({address})" for name, address in known.items()]
    raise ConfigError(
        f"{socket.gethostname()} has no interface or network {wanted!r}. It has: {listed(have)}"
    )
