"""A virtual-time event loop: simulated processes, one seed, no sleeping.

    run(main(), seed=7, until_s=60.0)

When nothing is ready, time jumps to the next timer. A `Process` is a set of callbacks that share a
fate: it can be frozen (SIGSTOP), thawed, or ended in the middle of what it does (SIGKILL: not one
more callback runs, no `finally` either). A callback belongs to the process in whose context it was
scheduled; what no process scheduled belongs to the test itself.

Order: inside one process callbacks run first in, first out. asyncio documents that, uvloop keeps it
and the framework stands on it (operations for a local actor, one batch a turn), so shuffling it
would find bugs that cannot happen. Between processes nothing is promised: whose turn comes next is
drawn from the seed. The other disorder, when a message arrives, is the network's (`network.py`).

Executors run inline, at a virtual cost, one call at a time for each executor; the effect happens at
the end of the cost, so that a process that dies meanwhile has done nothing.

Knows nothing of nodes, roles or networks. Users call `run`; `simulation.py` builds on it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from realnet.errors import RealnetError
from realnet.testing.process import PROCESS, Process
from realnet.waits import Waits

T = TypeVar("T")


class SimulationError(RealnetError):
    """A simulation did not come to its end."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set: it would hang for ever."""


class OutOfTime(SimulationError):
    """The virtual time that the simulation was given is over."""


class _Handle(asyncio.Handle):
    """A handle without the debugging that costs most of making one."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Any):
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """The same for a timer."""

    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Any):
        self._when = when
        self._scheduled = True
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time is a number. Not for threads, sockets or signals."""

    def __init__(
        self,
        seed: int = 0,
        *,
        shuffle: bool = True,
        until_s: float | None = None,
        cost_s: Callable[[], float] = lambda: 0.001,
    ):
        super().__init__()
        self.rng = random.Random(f"loop {seed}")
        self.until_s = until_s
        self.cost_s = cost_s  # of the next call into an executor
        self.errors: list[str] = []
        self.waits: list[Waits] = []  # whose open waits a Deadlock names
        self._shuffle = shuffle
        self._now_s = 0.0
        self._main = Process("test")
        self._runnable: list[Process] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._timer_count = 0
        self._busy_until_s: dict[Any, float] = {}
        self.set_exception_handler(lambda loop, context: self._note_error(context))

    # ------------------------------------------------------------ processes

    def process(self, name: str) -> Process:
        """Make a process. Tasks created with its context, and all they schedule, belong to it."""
        return Process(name)

    def freeze(self, process: Process) -> None:
        """Run nothing of it until `thaw`; what comes due or arrives meanwhile is kept."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """Let it go on; everything that was kept is late."""
        process.frozen = False
        if process.ready:
            self._queue(process)

    def end(self, process: Process) -> None:
        """Never run anything of it again."""
        process.dead = True
        process.ready.clear()

    # ------------------------------------------------------------ what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run a callback in its process' next turn."""
        if context is None:
            context = contextvars.copy_context()
        process = context.get(PROCESS) or self._main
        handle = _Handle(callback, args, self, context)
        if not process.dead:
            process.ready.append(handle)
            if not process.queued and not process.frozen:
                process.queued = True
                self._runnable.append(process)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a virtual second; equal times keep the order of the calls."""
        if context is None:
            context = contextvars.copy_context()
        handle = _Timer(when, callback, args, self, context)
        self._timer_count += 1
        process = context.get(PROCESS) or self._main
        heapq.heappush(self._timers, (when, self._timer_count, handle, process))
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` here when its virtual cost is over; one executor does one call at a time."""
        future: asyncio.Future[T] = self.create_future()
        start_s = max(self._now_s, self._busy_until_s.get(executor, 0.0))
        self._busy_until_s[executor] = end_s = start_s + self.cost_s()
        self.call_at(end_s, _resolve, future, func, args)
        return future

    def close(self) -> None:
        """End the loop; nothing that is left of any process runs or complains."""
        self._runnable.clear()
        self._timers.clear()
        super().close()

    def _run_once(self) -> None:
        """Run what is ready, one process' turn after the other; if nothing is, let time jump."""
        this = cast(Any, self)
        runnable, chance, shuffle = self._runnable, self.rng.random, self._shuffle
        while not this._stopping:
            if not runnable:
                self._jump()
                continue
            count = len(runnable)
            process = runnable.pop(int(chance() * count) if count > 1 and shuffle else 0)
            process.queued = False
            ready = process.ready
            for _ in range(len(ready)):
                if not ready or process.frozen:
                    break
                handle = cast(Any, ready.popleft())
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        what = f"exception in callback {handle._callback!r}"
                        self.call_exception_handler({"message": what, "exception": error})
            if ready and not process.frozen and not process.queued:
                self._queue(process)

    def _queue(self, process: Process) -> None:
        if not process.queued:
            process.queued = True
            self._runnable.append(process)

    def _jump(self) -> None:
        timers = self._timers
        while timers and (timers[0][2]._cancelled or timers[0][3].dead):
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"nothing can happen any more at {self._now_s:.3f} s; {self.open()}")
        self._now_s = when_s = max(self._now_s, timers[0][0])
        if self.until_s is not None and when_s > self.until_s:
            raise OutOfTime(f"not at its end after {self.until_s:g} virtual s; {self.open()}")
        while timers and timers[0][0] <= when_s:
            _, _, handle, process = heapq.heappop(timers)
            if not handle._cancelled and not process.dead:
                process.ready.append(handle)
                if not process.queued and not process.frozen:
                    process.queued = True
                    self._runnable.append(process)

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _process_events(self, event_list: Any) -> None:
        """There is no selector that has events."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when they come due."""

    # ------------------------------------------------------------ errors and ends

    def open(self) -> str:
        """Say who waits for what, for errors."""
        waits = [
            f"{wait.who} waits for {wait.on} ({waits.now() - wait.since_s:.1f} s)"
            for waits in self.waits
            for wait in waits
        ]
        if waits:
            return "open waits: " + "; ".join(waits)
        names = sorted(t.get_name() for t in asyncio.all_tasks(self) if not t.done())
        return "no named wait is open; tasks: " + (", ".join(names) or "none")

    def _note_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {error!r}" if error else context["message"])

    def bury(self) -> None:
        """Close every coroutine that is left, while the loop still runs, without a word."""
        self.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self):
            if task is asyncio.current_task(self):
                continue
            cast(Any, task)._log_destroy_pending = False
            with suppress(BaseException), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cast(Any, task.get_coro()).close()


def _resolve(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        result = func(*args)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def run(
    main: Coroutine[Any, Any, T],
    *,
    seed: int = 0,
    until_s: float | None = None,
    shuffle: bool = True,
) -> T:
    """Run a coroutine in a loop of its own. Raises Deadlock or OutOfTime, naming who waits."""
    loop = VirtualLoop(seed, shuffle=shuffle, until_s=until_s)
    return run_in(loop, main)


def run_in(
    loop: VirtualLoop, main: Coroutine[Any, Any, T], at_end: Callable[[], None] = lambda: None
) -> T:
    """Run a coroutine in this loop and close it. `at_end` comes before what is left is buried."""
    try:
        return loop.run_until_complete(main)
    finally:
        at_end()
        loop.until_s = None
        loop.call_soon(loop.bury)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
