"""The agent of one host: it starts, watches and ends the slots that the head tells it.

    python -m realnet.launch.agent FOLDER --number 2 [--attempt 1] [--host node3] ...

It finds the head by the run's folder, looks at its host, and says hello with what the host has.
Slots are told by name; what they are stands in the plan in the run's folder. An agent that has not
heard the head for the lease stops all that it started and exits with 75. It exits with 0 when the
head ends it, with 76 when the head has given its host up, or does not let it in. Its processes die
with it.

Knows nothing of what roles do. What the head talks to is `agentactor.py`.
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

from realnet.address import parse_address
from realnet.control import member_of
from realnet.errors import AskError, ConfigError, RealnetError
from realnet.exits import EXIT_CONFIG, EXIT_FENCED
from realnet.host import die_with_parent
from realnet.launch.agentactor import COME_BY, HELLO_S, AgentActor, AgentConfig
from realnet.launch.given import cores, memory_bytes, visible_gpus
from realnet.launch.local import LocalLauncher
from realnet.launch.reaching import WayToHead, greet, ways_to
from realnet.launch.records import (
    Check,
    Hello,
    Left,
    agent_slot,
)
from realnet.launch.rendezvous import HeadFile, await_head
from realnet.memberactor import run_info
from realnet.node import Node
from realnet.topology.plan import Plan, read_plan
from realnet.transport.folders import SocketsFolder
from realnet.transport.security import open_secret, read_keys
from realnet.transport.zmq import MAX_IPC_PATH, ZmqTransport, tcp_endpoint

TRY_S = 8.0  # for an answer of the head by one of several ways


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
        return EXIT_CONFIG
    except (RealnetError, OSError) as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_FENCED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
