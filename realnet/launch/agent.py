"""The agent of one host: it starts, watches and ends the slots that the head tells it.

    python -m realnet.launch.agent FOLDER --number 2 [--attempt 1] [--host node3] ...

It finds the head by the run's folder, says hello with what the host has, and owns the host's shared
memory. Slots are told by name; what they are stands in the plan in the run's folder. Leases hold
both ways: an agent that has not heard the head for the lease stops all that it started and exits
with 75. It exits with 0 when the head ends it, with 76 when the head has given its host up, or
does not let it in. Its processes die with it.

Knows nothing of what roles do. The head's end of it is `hosts.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from realnet.actor import Actor
from realnet.address import parse_address
from realnet.arena import Arenas
from realnet.config import Config
from realnet.control import HEAD_SLOT, Peer, member_of
from realnet.errors import AskError, ConfigError, RealnetError
from realnet.host import die_with_parent
from realnet.launch import ADDRESS, NEARBY
from realnet.launch.given import cores, memory_bytes, visible_gpus
from realnet.launch.local import LocalLauncher
from realnet.launch.reaching import WayToHead, greet, reached, ways_to
from realnet.launch.records import (
    HOSTS,
    AgentBeat,
    Check,
    ComeBy,
    DumpSlot,
    Go,
    HeadBeat,
    Hello,
    HostArenaOpened,
    KillSlot,
    Leaving,
    Left,
    OpenHostArena,
    Reach,
    Reached,
    SlotEnded,
    SlotStarted,
    StartSlot,
    agent_slot,
)
from realnet.launch.rendezvous import HeadFile, await_head
from realnet.member import run_info
from realnet.node import Node
from realnet.ports import Ask, handles
from realnet.topology.plan import Plan, read_plan
from realnet.transport.folders import SocketsFolder
from realnet.transport.security import open_secret, read_keys
from realnet.transport.zmq import MAX_IPC_PATH, ZmqTransport, tcp_endpoint

EXIT_RETRY = 75  # the head is not heard any more
COME_BY = -1  # no exit code: come again by another way
EXIT_FENCED = 76  # it is there, and does not want this life of the host
TICK_S = 0.25
HELLO_S = 30.0
TRY_S = 8.0  # for an answer of the head by one of several ways
KILLED_S = 5.0
AWAY_S = 1.0


class AgentConfig(Config):
    """Nothing to configure: the head says it all."""


class AgentActor(Actor[AgentConfig]):
    """What the head talks to on each host. `left` is set with the exit code when it may end."""

    head = Ask(Hello)

    def prepare(
        self,
        plan: Plan,
        launcher: LocalLauncher,
        node: Node,
        gpus: Sequence[str],
        sockets: Path,
    ) -> None:
        """Hand in what it works with, before `join`. `sockets`: the folder of its processes'."""
        self.plan, self.launcher, self.node = plan, launcher, node
        self.sockets = str(sockets)
        self.gpus, self.arenas = list(gpus), Arenas()
        self.left: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.lease_s, self.beat_s, self.heard_s = HELLO_S, TICK_S, self.clock.now()
        self._lives: dict[str, int] = {}
        self._slots = {s.name: s for s in plan.slots}
        self._leaving = False
        node.owner = self

    async def join(self, hello: Hello, head: HeadFile, way: WayToHead, limit_s: float) -> None:
        """Say hello. Raises RealnetError when the head does not want this host, AskError when it
        does not answer.
        """
        self.slot = hello.slot
        self.address_of_host = hello.address
        self.node.connect(Peer(HEAD_SLOT, way.endpoint, (HOSTS,)))
        self.node.cells[self.address.full].ports["head"].peer_up(HOSTS, "")
        welcome = await self.head(hello, deadline_s=limit_s)
        if welcome.nonce != head.nonce:
            raise RealnetError("who answered is not the head that wrote head.json")
        if welcome.refused:
            raise RealnetError(f"the head refused this host: {welcome.refused}")
        if welcome.digest != self.plan.digest():
            raise ConfigError(
                f"the plan in the run's folder is another one here ({self.plan.digest()}) than "
                f"for the head ({welcome.digest}): is that folder on a shared file system?"
            )
        self.lease_s, self.beat_s = welcome.lease_s, welcome.beat_s
        self.heard_s = self.clock.now()
        self._beat()  # the head now knows that its answer has come back
        self.spawn(self._tick(), name="lease")

    def _beat(self) -> None:
        self.head.tell(AgentBeat(self.slot, tuple(self._lives)))

    async def _tick(self) -> None:
        """Beat; stop everything when the head is not heard any more."""
        beat_at_s = 0.0
        while not self.left.done():
            due_s = self.clock.now() + TICK_S
            await self.clock.sleep(TICK_S)
            now_s = self.clock.now()
            if now_s - due_s > AWAY_S:  # we stood still: what the head said is yet to be read
                self.heard_s = max(self.heard_s, now_s - self.lease_s + AWAY_S)
            if now_s >= beat_at_s:
                beat_at_s = now_s + self.beat_s
                self._beat()
            silent_s = now_s - self.heard_s
            if silent_s > self.lease_s:
                self.end(EXIT_RETRY, f"the head has not been heard for {silent_s:.1f} s")

    def end(self, code: int, why: str) -> None:
        """Let the agent end."""
        if not self.left.done():
            self.left.set_result((code, why))

    def leave(self, why: str) -> None:
        """The host is being taken away: have the head end in order what is here."""
        if not self._leaving:
            self._leaving = True
            self.head.tell(Leaving(self.slot, why))

    async def end_all(self) -> None:
        """End every process that was started here."""
        until_s = self.clock.now() + KILLED_S
        for slot in self.launcher.alive():
            self.launcher.kill(slot)
        while self.launcher.alive() and self.clock.now() < until_s:
            await self.clock.sleep(0.02)
        self.arenas.close()

    # ------------------------------------------------------------ the head's orders

    @handles
    async def head_beat(self, record: HeadBeat) -> None:
        """The head is there."""
        self.heard_s = self.clock.now()

    @handles
    async def start_slot(self, record: StartSlot) -> None:
        """Start a process, with the GPUs that it is given by position."""
        slot, life = record.slot, record.incarnation
        if slot not in self._slots or self._lives.get(slot, 0) >= life or self.left.done():
            return
        planned = self._slots[slot]
        environment = {
            ADDRESS: self.address_of_host,
            NEARBY: self.sockets,
            "CUDA_VISIBLE_DEVICES": ",".join(self.gpus[at] for at in record.gpus),
        }
        meet = record.meet
        if planned.gang:
            if not meet:
                meet = f"{self.address_of_host}:{self.launcher.hold_port(planned.gang, life)}"
            environment["MASTER_ADDR"], _, environment["MASTER_PORT"] = meet.rpartition(":")
        self._lives[slot] = life
        self.launcher.placed[slot] = environment

        def exited(
            how: str, refused: bool = False, lost: bool = False, nowhere: bool = False
        ) -> None:
            if self._lives.get(slot) == life:
                self.head.tell(SlotEnded(slot, life, how, refused))

        try:
            pid = self.launcher.spawn(slot, life, exited)
        except OSError as error:
            exited(f"it cannot be started on {platform.node()}: {error}")
            return
        self.head.tell(SlotStarted(slot, life, pid, meet))

    @handles
    async def kill_slot(self, record: KillSlot) -> None:
        """End a process at once."""
        if self._lives.get(record.slot) == record.incarnation:
            self.launcher.kill(record.slot)

    @handles
    async def dump_slot(self, record: DumpSlot) -> None:
        """Make a process write its stacks."""
        self.launcher.dump(record.slot)

    @handles
    async def open_host_arena(self, request: OpenHostArena) -> HostArenaOpened:
        """Shared memory of this host; it stays when the role that wanted it dies."""
        return HostArenaOpened(self.arenas.open(request.name, request.num_bytes))

    @handles
    async def reach(self, request: Reach) -> Reached:
        """Try to connect to the agents of other hosts."""
        tries = [reached(where, request.limit_s) for where in request.addresses]
        return Reached(tuple(await asyncio.gather(*tries)))

    @handles
    async def come_by(self, record: ComeBy) -> None:
        """The head wants us by another of its addresses."""
        self.end(COME_BY, record.way)

    @handles
    async def go(self, record: Go) -> None:
        """The head wants this host no more."""
        self.end(record.code, record.why)

    # ------------------------------------------------------------ as the owner of its node

    def actor_failed(self, address: object, error: BaseException) -> None:
        """The agent itself raised: a bug; its host is lost for the run."""
        print(f"agent failed: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
        self.end(1, f"the agent failed: {error!r}")

    def actor_finished(self, address: object, text: str) -> None:
        """No role lives here."""

    def link_broken(self, slot: str, text: str) -> None:
        """The head has given this host up, or another head is there: it is fenced."""
        self.end(EXIT_FENCED, text)

    async def open_arena(self, name: str, slot_bytes: int, slots: int) -> str:
        """No role lives here."""
        raise RealnetError("an agent has no shared memory of its own")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="realnet agent", description="The agent of one host.")
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--number", type=int, required=True, help="which of the hosts this is")
    parser.add_argument("--attempt", type=int, default=0, help="0: the newest")
    parser.add_argument("--host", default="", help="the name of this host")
    parser.add_argument("--pool", default="", help="the pool that this host is for")
    parser.add_argument("--cpus", type=int, default=-1, help="cores to offer; 0: no limit")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs, where nobody says which")
    parser.add_argument("--elastic", default="", help="the role for whose elastic members it is")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to look for the head")
    parser.add_argument("--parent", type=int, default=0, help="end when this process does")
    return parser.parse_args(argv)


async def _main(options: argparse.Namespace, head: HeadFile, checks: tuple[Check, ...]) -> int:
    plan = read_plan(options.folder)
    if plan.digest() != head.digest:
        raise ConfigError(
            f"{options.folder}/plan.json is not the plan that the head has: is it on a shared file "
            "system?"
        )
    ways = await ways_to(head, options.wait)
    code, said = COME_BY, ways[0].endpoint
    silent: set[str] = set()
    while code == COME_BY:  # the head knows which way most others can use
        at = next(n for n, way in enumerate(ways) if way.endpoint == said)
        others = [w.endpoint for w in ways if w.endpoint not in {*silent, said}]
        try:
            limit_s = TRY_S if others else HELLO_S
            code, said = await _live(options, plan, head, checks, ways, at, limit_s)
        except AskError as error:
            print(f"the head does not answer by {said}: {error}", flush=True)  # noqa: T201
            if not others:
                raise
            silent.add(said)
            said = others[0]  # that may be one by which we were let in before
    return code


async def _live(
    options: argparse.Namespace,
    plan: Plan,
    head: HeadFile,
    checks: tuple[Check, ...],
    ways: Sequence[WayToHead],
    at: int,
    limit_s: float,
) -> tuple[int, str]:
    """Join by one of the ways and be an agent; return the exit code and why, or COME_BY and the
    way that the head wants. Raises AskError when no answer comes back by it.
    """
    folder: Path = options.folder
    way = ways[at]
    name, address = agent_slot(options.number), way.address
    slot = f"{name}~{int(time.time() * 1000)}"
    keys = read_keys(folder / "keys", name)
    transport = ZmqTransport(tcp_endpoint(address), keys, sign_bulk=plan.run["bulk"] == "signed")
    node = Node(slot, transport, run_info(plan, folder, head.attempt, head.resumed))
    actor = node.add(AgentActor, parse_address(member_of(slot)), AgentConfig()).actor
    assert isinstance(actor, AgentActor)
    logs = folder / "attempts" / str(head.attempt) / "logs"
    launcher = LocalLauncher(
        *(plan, folder, logs, way.endpoint, head.attempt, head.resumed),
        lambda of: open_secret(folder / "keys", of),
    )
    gpus = visible_gpus(options.gpus)
    sockets = SocketsFolder(str(options.number), MAX_IPC_PATH)
    actor.prepare(plan, launcher, node, gpus, sockets.path)
    node.on_wire_error = lambda error: print(error, file=sys.stderr, flush=True)  # noqa: T201
    node.listen()
    probe = await asyncio.start_server(greet, address, 0)
    port = probe.sockets[0].getsockname()[1]
    _listen_to_signals(actor, elastic=bool(options.elastic))
    hello = Hello(
        *(slot, transport.endpoint, options.host or platform.node(), address, head.nonce),
        *(head.attempt, cores() if options.cpus < 0 else options.cpus, gpus, memory_bytes()),
        *(os.getpid(), options.elastic, time.time(), checks),
        pool=options.pool,
        probe=f"{address}:{port}",
        way=way.endpoint,
        ways=tuple(w.endpoint for w in ways),
    )
    code, why = 1, "it failed"
    try:
        await actor.join(hello, head, way, limit_s)
        print(f"{hello.host}: by {address} in {plan.name}, attempt {head.attempt}", flush=True)  # noqa: T201
        code, why = await actor.left
    finally:
        probe.close()
        await actor.end_all()
        print(f"{hello.host}: ended with {code}: {why}", flush=True)  # noqa: T201
        actor.head.tell(Left(slot, why))
        node.flush()
        node.close()
        launcher.close()
        transport.close(0.5)
        sockets.close()
    return code, why


def _listen_to_signals(actor: AgentActor, *, elastic: bool) -> None:
    """SLURM signals every process of a step. The head decides; an elastic host asks to leave."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        if elastic:
            text = f"it is being taken away ({number.name})"
            loop.add_signal_handler(number, actor.leave, text)
        else:
            loop.add_signal_handler(number, lambda: None)


def main(argv: Sequence[str]) -> int:
    """Entry point of the process."""
    options = _arguments(argv)
    options.folder = options.folder.resolve()
    if options.parent:
        die_with_parent(options.parent)
    import uvloop

    from realnet.launch.checks import look_at_this_host

    try:
        head = await_head(options.folder, options.attempt, options.wait)
        checks = look_at_this_host(options.folder, head)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_main(options, head, checks))
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return 2
    except (RealnetError, OSError) as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_FENCED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
