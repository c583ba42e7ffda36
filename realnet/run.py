"""One run from start to end: folder, head, processes, signals, the last message.

Knows nothing of what roles do: the view and the report are named by the topology. Called by the
command line (`cli.py`) and by tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from realnet.address import parse_address
from realnet.control import HEAD, HEAD_SLOT
from realnet.errors import RealnetError
from realnet.exits import EXIT_INTERRUPTED, EXIT_RETRY
from realnet.guest.meeting import end_meeting, meeting_of, write_meeting
from realnet.head import Head, HeadConfig
from realnet.launch import STACKS, Launcher, stacks_folder, stacks_path
from realnet.launch.fleet import Fleet, head_file
from realnet.launch.hosts import Hosts, make_hosts
from realnet.launch.inline import InlineLauncher
from realnet.launch.local import LocalLauncher
from realnet.launch.reaching import Probes
from realnet.launch.records import agent_slot
from realnet.launch.rendezvous import end_head
from realnet.memberactor import run_info
from realnet.node import Node
from realnet.observe.record import Record
from realnet.observe.view import View
from realnet.runfolder import RunFolder
from realnet.showing import StatusReporter, keep_drawing, shown, write_busy, write_report
from realnet.stacks import stop_writing_stacks, write_stacks_on
from realnet.topology.placement import spread
from realnet.topology.plan import Plan, write_plan
from realnet.transport import Transport
from realnet.transport.memory import MemoryNetwork

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # USR2: a scheduler's "soon"
HEAD_NAME = HEAD_SLOT.partition("~")[0]
UP_S = 60.0  # how long the last work waits for a role that is being started


class Outcome(NamedTuple):
    """How a run ended. `code` is the exit code of `realnet run`:

    0 it came to its end; 75 it may be tried again as it is (--resume): it was asked to stop by
    SIGTERM or SIGUSR2 (a scheduler), or lost processes to what is not theirs (killed, hung, never
    started);
    1 a role failed by its own error; 2 the configuration is wrong; 130 Ctrl-C. `by` names the
    signal that asked it to stop.
    """

    code: int
    text: str
    by: str = ""


async def run_plan(
    plan: Plan,
    folder: RunFolder,
    view: View,
    *,
    inline: bool = False,
    fleet: Fleet | None = None,
) -> Outcome:
    """Run a plan to its end and return how it ended. The folder stays the caller's to close.

    With a `fleet` its processes are started by the agents of several hosts.
    """
    plan = plan if fleet is None else spread(plan, fleet.address)
    write_plan(plan, folder.path)
    started_s = time.monotonic()
    (folder.path / "busy.json").unlink(missing_ok=True)  # it is of one attempt only
    record = Record(folder.path, started_s, folder.attempt)
    record.watchers.append(shown(view, record))
    info = run_info(plan, folder.path, folder.attempt, folder.resumed)
    if inline:
        network = MemoryNetwork()
        node = Node(HEAD_SLOT, network.transport("head"), info)
    else:
        transport, open_secret = _open_transport(plan, folder, fleet)
        node = Node(HEAD_SLOT, transport, info)
    endpoint, attempt, resumed = node.transport.endpoint, folder.attempt, folder.resumed
    hosts = None
    launcher: Launcher
    if inline:
        launcher = InlineLauncher(plan, folder.path, network, endpoint, attempt, resumed)
    elif fleet is not None:
        hosts = make_hosts(node, plan, fleet.nonce, fleet.wanted)
        launcher = hosts.launcher
    else:
        launcher = LocalLauncher(
            *(plan, folder.path, folder.logs, endpoint, attempt, resumed), open_secret
        )
    config = HeadConfig(
        suspect_after_s=float(plan.run["suspect"]),
        hung_after_s=float(plan.run["hung"]),
        grace_s=float(plan.run["grace"]),
        boot_s=float(plan.run["boot"]),
        stall_s=float(plan.run["stall"]),
    )
    cell = node.add(Head, parse_address(HEAD), config)
    head = cell.actor
    assert isinstance(head, Head)
    head.prepare(node, plan, launcher, record)
    node.owner = head
    node.listen()
    reporter = StatusReporter(head, folder.path)
    probes = Probes()
    ended, code = "the head failed; see events.jsonl", 1
    try:
        view.start(plan, head)
        if not inline:
            stacks = stacks_path(stacks_folder(folder.path, attempt), HEAD_NAME)
            write_stacks_on(STACKS, stacks, HEAD_NAME)
            _warn(head)
            write_meeting(meeting_of(plan, info, endpoint, folder.sockets))
        if hosts is not None and fleet is not None:
            head.host_gone, head.host_of = hosts.gone, hosts.host_of
            hosts.open(head)
            from realnet.transport.opening import endpoints_of

            ways = await probes.open(endpoints_of(node.transport))
            await fleet.start(head_file(plan, info, ways, fleet.nonce))
        outcome = await _watch(head, view, reporter, hosts)
        ended, code = outcome.text, outcome.code
    finally:
        end_meeting(folder.path)
        if hosts is not None and fleet is not None:
            probes.close()
            await hosts.let_go(ended)
            await fleet.stop()
            end_head(folder.path, attempt, over=code not in (EXIT_RETRY, EXIT_INTERRUPTED))
        reporter.write(ended)
        view.stop()
        if isinstance(launcher, LocalLauncher):
            stop_writing_stacks(STACKS)
            launcher.close()
        await cell.end(graceful=False)
        with contextlib.suppress(OSError):  # a full disk costs the report its overlap, no more
            write_busy(record, folder.path, started_s)
        record.close()
        node.closed = True
        node.transport.close(0.2)
        shutil.rmtree(folder.path / "keys", ignore_errors=True)  # of this attempt only
    await write_report(plan, folder.path, view)
    return outcome


def _warn(head: Head) -> None:
    run = head.plan.run
    if run["transport"] == "tcp" and run["security"] == "none":
        head.say(
            'WARNING: security = "none": whoever reaches this host\'s loopback can take part in '
            "this run"
        )


def _open_transport(
    plan: Plan, folder: RunFolder, fleet: Fleet | None
) -> tuple[Transport, Callable[[str], int] | None]:
    """Return the head's transport, and what opens the secret of a slot if processes have keys."""
    from realnet.transport.opening import open_transport
    from realnet.transport.security import make_keys, open_secret

    name, keys = HEAD_SLOT.partition("~")[0], folder.path / "keys"
    secure = plan.run["security"] == "curve"
    if secure:
        agents = [agent_slot(n) for n in range(fleet.num_agents(plan))] if fleet else []
        make_keys(keys, [name, *(s.name for s in plan.slots), *agents])
    others = fleet.others if fleet is not None else ()
    transport = open_transport(plan.run, folder.path, folder.sockets, name, 0, others=others)
    return transport, partial(open_secret, keys) if secure else None


async def _open(head: Head, hosts: Hosts) -> None:
    """Wait for the hosts, then start every process; without the hosts the run ends."""
    try:
        await hosts.gather()
    except RealnetError as error:
        head.end(False, str(error), EXIT_RETRY)
    else:
        head.launch()
        hosts.take_early()


async def _watch(head: Head, view: View, reporter: StatusReporter, hosts: Hosts | None) -> Outcome:
    """Wait for the end of the run or a signal; stop everything; say how it was."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    tasks: list[asyncio.Future[Any]] = []
    for number in STOPPING:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        if hosts is None:
            head.launch()
        else:
            tasks.append(asyncio.ensure_future(_open(head, hosts)))
        asked = asyncio.ensure_future(signals.get())
        tasks += [asked, asyncio.ensure_future(keep_drawing(view, reporter, head))]
        either: set[asyncio.Future[Any]] = {asked, head.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        graceful, outcome = _what_now(head, asked)
        head.say(outcome.text if not graceful else f"stopping: {outcome.text}")
        asked = asked if not asked.done() else asyncio.ensure_future(signals.get())
        well = graceful and outcome.code == 0
        stopping = asyncio.ensure_future(_close(head) if well else head.stop_all(graceful))
        tasks += [asked, stopping]
        either = {asked, stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():  # a second signal: at once
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            await head.stop_all(graceful=False)
            why = "asked a second time"
            if outcome.code == 0:  # it was finishing by itself, so this was the first time
                why = f"{outcome.text}, but its last work was cut short: asked to stop"
            code = outcome.code or EXIT_INTERRUPTED
            outcome = Outcome(code, f"stopped at once: {why}", outcome.by)
        else:
            stopping.result()
            if head.troubles:
                told = f"{outcome.text}; but {'; '.join(head.troubles)}"
                outcome = outcome._replace(code=outcome.code or 1, text=told)
        return outcome
    except BaseException:  # cancelled, or a bug: whoever called keeps none of our processes
        await head.stop_all(graceful=False)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for number in STOPPING:
            loop.remove_signal_handler(number)


async def _close(head: Head) -> bool:
    """A run that ended well may finish its last work; one that was asked to stop may not."""
    await head.everybody_up(UP_S)
    return await head.stop_all(True, float(head.plan.run["closing"]))


def _what_now(head: Head, asked: asyncio.Future[signal.Signals]) -> tuple[bool, Outcome]:
    """Return whether to drain, and the outcome as far as it is known."""
    if head.ended.done():
        well, text = head.ended.result()
        return well, Outcome(head.end_code, text)
    number = asked.result()
    code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_RETRY
    return True, Outcome(code, f"asked to stop ({number.name})", number.name)
