"""Who is a guest of a run, under which name, with which actors; decided without IO.

A guest has a name that is no role's. Its life is a new incarnation each time it comes; a name is
free again when its life has ended: it departed, its process was seen to end, or it was silent for
the suspicion timeout. It is never restarted by anybody. It may get actors of its own, wired as it
says, and host members of elastic roles in the places that the plan leaves (`count` to `max`).

Knows nothing of sockets, processes or clocks. Kept by `desk.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from realnet.address import Address, parse_address
from realnet.control import Peer
from realnet.errors import ConfigError
from realnet.guest.wires import check_records, ends_of_role, guest_wires
from realnet.topology.plan import EndsPlan, Plan, WirePlan

_NAME = re.compile(r"[A-Za-z_][\w-]{0,60}")


def check_guest_name(name: str, plan: Plan) -> None:
    """Refuse a name that no guest of this run may have. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a guest: letters, digits, _ and -, a letter first")
    if name in plan.roles or name == "head":
        raise ConfigError(f'"{name}" is a role of {plan.name}: a guest needs a name of its own')


def guest_slot(name: str) -> str:
    """Return the slot of a guest's name, to which its key belongs."""
    return f"{name}/0"


@dataclass
class Guest:
    """One life of a guest. `served` maps the actors that it hosts for roles to their roles."""

    peer: Peer
    pid: int
    since_s: float
    served: dict[str, str] = field(default_factory=dict)
    wires: dict[str, tuple[WirePlan, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its slot without the incarnation, as its key has it."""
        return self.peer.slot.partition("~")[0]


class Register:
    """The guests of a run. Methods that decide raise ConfigError with the text of a refusal."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.guests: dict[str, Guest] = {}  # by slot with incarnation
        self._last: dict[tuple[str, int], int] = {}  # role, index -> its last incarnation

    def of_name(self, name: str) -> Guest | None:
        """Return the guest that goes by this name ("notebook/0") now."""
        return next((g for g in self.guests.values() if g.name == name), None)

    def admit(self, slot: str, endpoint: str, pid: int, now_s: float) -> Guest:
        """A guest comes in. Its first actor, for what its scripts ask, goes by its own name."""
        address = parse_address(slot)
        if not self.plan.run.get("guests", True):
            raise ConfigError(f"{self.plan.name} takes no guests ([run] guests = false)")
        check_guest_name(address.role, self.plan)
        present = self.of_name(str(address))
        if present is not None:
            raise ConfigError(
                f"{address.role} is in this run already (pid {present.pid}): choose another name, "
                "or wait until the run has noticed that it is gone"
            )
        if address.index or address.incarnation <= self._last.get((address.role, 0), 0):
            raise ConfigError(f"{slot} is no new life of {address.role}: is its clock set back?")
        self._last[address.role, 0] = address.incarnation
        peer = Peer(slot, endpoint, (slot,), up=True, guest=True)
        guest = self.guests[slot] = Guest(peer, pid, now_s)
        return guest

    def wire(
        self, slot: str, actor: str, ends: EndsPlan, wires: Mapping[str, Sequence[str]]
    ) -> Guest:
        """An actor of the guest gets wires; a new one is coming until it is ready."""
        guest, address = self._guest(slot), parse_address(actor)
        own = parse_address(slot).role
        if actor != slot and not address.role.startswith(f"{own}."):
            raise ConfigError(f"{slot} may not have an actor {actor}: its actors are {own}.NAME")
        made = guest_wires(address.role, ends, wires, self.plan)
        before = guest.wires.get(actor, ())
        guest.wires[actor] = (*before, *(w for w in made if w not in before))
        self._change(guest, add=actor)
        return guest

    def serve(self, slot: str, role: str, ends: EndsPlan) -> tuple[Guest, str]:
        """The guest hosts one more member of a role. Returns the member's full address too."""
        guest, where = self._guest(slot), f"serve {role}"
        known = ends_of_role(role, self.plan, where)
        planned = self.plan.roles[role]
        if planned.max <= planned.count or planned.ranks > 1 or planned.place:
            raise ConfigError(
                f"{where}: [roles.{role}] leaves no place for guests: write max = "
                f"{planned.count + 1} or more beside count = {planned.count} in {self.plan.title}"
                + (" (a gang, or a role that lives with another, has none)" * (planned.ranks > 1))
            )
        living = [r for r, p in self.plan.roles.items() if p.place == role]
        if living:
            raise ConfigError(f"{where}: {', '.join(living)} lives with it; a guest cannot host it")
        check_records(f"{where}: the class", ends, role, known)
        taken = {
            parse_address(a).index
            for g in self.guests.values()
            for a, r in g.served.items()
            if r == role
        }
        # Over several hosts these places are kept for hosts that come for them.
        taken |= {s.index for s in self.plan.slots if s.elastic and role in s.roles}
        free = [i for i in range(planned.count, planned.max) if i not in taken]
        if not free:
            raise ConfigError(
                f"{where}: all {planned.max} places of it are taken (max = {planned.max})"
            )
        life = self._last[role, free[0]] = self._last.get((role, free[0]), 0) + 1
        actor = Address(role, free[0], life).full
        guest.served[actor] = role
        self._change(guest, add=actor)
        return guest, actor

    def ready(self, slot: str, actor: str) -> Guest:
        """An actor of the guest has started."""
        guest = self._guest(slot)
        coming = tuple(a for a in guest.peer.coming if a != actor)
        guest.peer = msgspec.structs.replace(guest.peer, coming=coming)
        return guest

    def remove(self, slot: str, actor: str) -> Guest:
        """An actor of the guest has ended."""
        guest = self._guest(slot)
        guest.served.pop(actor, None)
        guest.wires.pop(actor, None)
        peer = guest.peer
        guest.peer = msgspec.structs.replace(
            peer,
            actors=tuple(a for a in peer.actors if a != actor),
            coming=tuple(a for a in peer.coming if a != actor),
        )
        self._change(guest)
        return guest

    def depart(self, slot: str) -> Guest | None:
        """The guest is gone, whatever the cause."""
        return self.guests.pop(slot, None)

    def _guest(self, slot: str) -> Guest:
        guest = self.guests.get(slot)
        if guest is None:
            raise ConfigError(f"{slot} is no guest of this run any more: enter again")
        return guest

    def _change(self, guest: Guest, add: str = "") -> None:
        peer = guest.peer
        fresh = (add,) if add and add not in peer.actors else ()
        guest.peer = msgspec.structs.replace(
            peer,
            actors=(*peer.actors, *fresh),
            coming=(*peer.coming, *fresh),
            wires=tuple(w for own in guest.wires.values() for w in own),
        )
