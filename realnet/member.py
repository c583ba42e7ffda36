"""A member: the process of one slot, from its start to its end.

`python -m realnet.member` is started by a launcher with a run folder, a slot and an incarnation.
It loads the role classes, joins the head, starts its actors when told, beats, reports and leaves.
It dies with its parent, whatever it is doing, and writes its stacks when signalled.

Knows nothing of what roles do. What the head talks to in it is `memberactor.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from realnet import host
from realnet.errors import ConfigError, SecurityError
from realnet.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_OK
from realnet.launch import ADDRESS, NEARBY, REFUSED, STACKS, stacks_folder, stacks_path
from realnet.leftovers import end_tasks
from realnet.memberactor import make_member, run_info
from realnet.node import Node
from realnet.stacks import write_stacks_on
from realnet.topology.plan import read_plan

GC_THRESHOLDS = (10_000, 20, 50)


async def _main(folder: Path, slot_name: str, incarnation: int, head_endpoint: str) -> int:
    from realnet.transport.opening import open_transport

    stacks = stacks_folder(folder, os.environ["REALNET_ATTEMPT"])
    write_stacks_on(STACKS, stacks_path(stacks, slot_name), f"{slot_name}~{incarnation}")
    plan = read_plan(folder)
    if plan.digest() != os.environ["REALNET_PLAN"]:
        raise ConfigError(f"{folder}/plan.json is not the plan that this run was started with")
    slot = next(s for s in plan.slots if s.name == slot_name)
    sockets = Path(head_endpoint.removeprefix("ipc://")).parent
    secret = os.environ.pop("REALNET_KEY_FD", "")  # read and closed: no child of ours inherits it
    transport = open_transport(
        plan.run, folder, sockets, slot_name, incarnation, int(secret) if secret else None
    )
    for told in (ADDRESS, NEARBY):  # of this process: a run that a role starts has its own
        os.environ.pop(told, None)
    info = run_info(
        plan, folder, int(os.environ["REALNET_ATTEMPT"]), os.environ["REALNET_RESUMED"] == "1"
    )
    node = Node(f"{slot_name}~{incarnation}", transport, info, plan.wires)
    member = make_member(node, plan, slot, incarnation)
    member.load_roles()
    # What was loaded stays for good: the collector need not walk through it for every call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    node.listen()
    try:
        await member.join(head_endpoint)
        limit_bytes = max(plan.roles[r].memory_bytes for r in slot.roles)
        if limit_bytes:
            member.spawn(member.keep_within(limit_bytes), name="memory")
        await member.left.wait()
        node.flush()
    finally:
        node.closed = True
        transport.close()
        await end_tasks()
    return EXIT_FAILED if member.failed else EXIT_OK


def main(argv: Sequence[str]) -> int:
    """Entry point of the process: FOLDER SLOT INCARNATION HEAD_ENDPOINT PARENT_PID."""
    folder, slot, incarnation, endpoint, parent = argv
    host.die_with_parent(int(parent))
    host.keep_freed_memory()
    words = os.environ.pop("REALNET_WORDS_FD", "")
    if words:
        os.set_inheritable(int(words), False)  # what this process starts cannot speak for it
    for number in (signal.SIGINT, signal.SIGTERM):  # the head decides when we stop
        signal.signal(number, signal.SIG_IGN)
    import uvloop

    # It is not closed: that would wait, without end, for tasks and threads of libraries.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        return runner.run(_main(Path(folder), slot, int(incarnation), endpoint))
    except (ConfigError, SecurityError) as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        if words:
            with contextlib.suppress(OSError):
                os.write(int(words), REFUSED + str(error).encode())
        return EXIT_CONFIG


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries (a compute step that is under way) must not hold the process.
    os._exit(code)
