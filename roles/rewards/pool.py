"""A pool of reward processes: calls in, scores or reasons out.

Calls are dealt to workers in chunks, and a worker answers them one at a time, so that the first
unanswered call is the one to blame when the process dies or a limit passes. That call is tried
again, `attempts` times in all, each in a process younger than its last failure, and then given up
with a reason; the calls behind it go back to the head of the queue, unblamed. No score is ever
made up.

Knows nothing of actors, tasks or rollouts. Called by the rewarder.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from realnet.errors import ConfigError, RealnetError, Stopping
from realnet.roles.rewards.process import WorkerLost, WorkerProcess

_CHUNK = 64
_PROMPT_CHARS = 60
_START_TRIES = 3


class Unscored(RealnetError):
    """A reward could not judge a call. The text names reward, prompt and cause."""


@dataclasses.dataclass(slots=True, eq=False)
class _Call:
    """One call and what it has been through. `failed_in` is the number of its last worker."""

    number: int
    reward: str
    texts: tuple[str, str, str, str]
    done: asyncio.Future[float]
    attempts: int = 0
    failed_in: int = 0
    alone: bool = False


class RewardPool:
    """`await pool.score("math", prompt, text, answer, stop)`: a float, or Unscored is raised.

    `references` are all the rewards that will be asked for; `base` is the topology's folder.
    """

    def __init__(
        self,
        references: Sequence[str],
        base: Path,
        *,
        workers: int = 1,
        limit_s: float = 15.0,
        memory_bytes: int = 2 << 30,
        nice: int = 0,
        attempts: int = 3,
        log: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._references = tuple(dict.fromkeys(references))
        self._which = {name: index for index, name in enumerate(self._references)}
        self._base, self._limit_s, self._memory = base.resolve(), float(limit_s), int(memory_bytes)
        self._num_workers, self._attempts, self._log = workers, attempts, log
        self._nice = nice
        self._queue: deque[_Call] = deque()
        self._news = asyncio.Event()
        self._workers: set[WorkerProcess] = set()
        self._servers: list[asyncio.Task[None]] = []
        self._failure: RealnetError | None = None
        self._calls = 0
        self.num_retried = 0
        self.num_unscored = 0

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes that are running now."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    @property
    def num_waiting(self) -> int:
        """Return how many calls no worker has taken yet."""
        return len(self._queue)

    async def start(self) -> None:
        """Start the workers. Raises ConfigError when the rewards cannot be imported."""
        if not self._references:
            return
        starts = [self._start_worker() for _ in range(self._num_workers)]
        started = await asyncio.gather(*starts, return_exceptions=True)
        failures = [worker for worker in started if isinstance(worker, BaseException)]
        if failures:
            await self.close()
            raise failures[0]
        for worker in started:
            if isinstance(worker, WorkerProcess):
                server = asyncio.create_task(self._serve(worker), name="reward worker")
                server.add_done_callback(self._server_ended)
                self._servers.append(server)

    async def score(self, reward: str, prompt: str, text: str, answer: str, stop: str) -> float:
        """Return what the reward says of this answer. Raises Unscored when it cannot say."""
        if self._failure is not None:
            raise self._failure
        if reward not in self._which:
            raise ConfigError(f"the pool was not started with the reward {reward!r}")
        self._calls += 1
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._queue.append(_Call(self._calls, reward, (prompt, text, answer, stop), done))
        self._news.set()
        return await done

    async def close(self) -> None:
        """End every process. Calls that still wait get Stopping."""
        self._fail(Stopping("the reward pool is closed"))
        for server in self._servers:
            server.cancel()
        if self._servers:
            await asyncio.wait(self._servers)
        self._servers.clear()
        for worker in list(self._workers):
            await self._end_worker(worker)

    # ------------------------------------------------------------ workers

    async def _start_worker(self) -> WorkerProcess:
        worker = WorkerProcess(self._log)
        self._workers.add(worker)
        try:
            await worker.start(
                self._references, self._base, self._limit_s, self._memory, self._nice
            )
        except BaseException:
            await self._end_worker(worker)
            raise
        return worker

    async def _end_worker(self, worker: WorkerProcess) -> None:
        await worker.end()
        self._workers.discard(worker)

    async def _restart(self) -> WorkerProcess:
        """Start a worker in place of one that ended; a bad moment of the host is waited out."""
        for attempt in range(_START_TRIES):
            try:
                return await self._start_worker()
            except (WorkerLost, OSError) as error:
                cause = str(error)
                await asyncio.sleep(0.2 * 4**attempt)
        raise RealnetError(
            f"no reward worker can be started ({_START_TRIES} tries): the last one {cause}. "
            "See the log of this role; is memory or the number of processes short?"
        )

    async def _serve(self, worker: WorkerProcess) -> None:
        """Keep one worker busy for ever; replace it when it is lost or too old for a retry."""
        while True:
            chunk = await self._take(worker)
            if not chunk or not await self._run(worker, chunk):
                await self._end_worker(worker)
                worker = await self._restart()

    def _server_ended(self, server: asyncio.Task[None]) -> None:
        error = None if server.cancelled() else server.exception()
        if isinstance(error, RealnetError):
            self._fail(error)
        elif error is not None:
            self._fail(RealnetError(f"a reward worker's server died: {error!r}"))

    def _fail(self, error: RealnetError) -> None:
        """Refuse all calls from now on, and those that wait."""
        self._failure = self._failure or error
        while self._queue:
            self._give_up(self._queue.popleft(), error)

    # ------------------------------------------------------------ calls

    async def _take(self, worker: WorkerProcess) -> list[_Call]:
        """Return the next calls for this worker; none when the next one needs a fresher process."""
        while True:
            while self._queue and self._queue[0].done.done():
                self._queue.popleft()  # its caller went away
            if self._queue:
                break
            self._news.clear()
            await self._news.wait()
        chunk: list[_Call] = []
        room = min(_CHUNK, 1 + len(self._queue) // self._num_workers)
        while self._queue and len(chunk) < room:
            call = self._queue[0]
            if call.failed_in >= worker.number or (call.alone and chunk):
                break
            chunk.append(self._queue.popleft())
            if call.alone:
                break
        return chunk

    async def _run(self, worker: WorkerProcess, chunk: list[_Call]) -> bool:
        """Have the worker answer these calls; False when it is lost."""
        waiting = deque(chunk)
        try:
            await worker.send([(c.number, self._which[c.reward], *c.texts) for c in chunk])
            while waiting:
                number, score, fault = await self._answer(worker)
                if number != waiting[0].number:
                    raise WorkerLost(f"answered call {number} out of turn")
                call = waiting.popleft()
                if score is None:
                    self._failed(call, worker, fault)
                elif not call.done.done():
                    call.done.set_result(score)
        except WorkerLost as lost:
            culprit = waiting.popleft()
            culprit.alone = True  # it costs its process: nobody shares the next one with it
            self._queue.extendleft(reversed(waiting))
            self._failed(culprit, worker, str(lost))
            self._news.set()
            return False
        except BaseException:  # being closed: the calls go with the queue
            self._queue.extendleft(reversed(waiting))
            self._fail(Stopping("the reward pool is closed"))
            raise
        return True

    async def _answer(self, worker: WorkerProcess) -> tuple[int, float | None, str]:
        reply = await worker.receive(self._limit_s)
        match reply:
            case [int(number), float() | None as score, str(fault)]:
                return number, score, fault
        raise WorkerLost("wrote into its worker's socket")

    def _failed(self, call: _Call, worker: WorkerProcess, cause: str) -> None:
        """Try the call again in a fresher process, behind all others; or give it up."""
        call.attempts += 1
        call.failed_in = worker.number
        if call.attempts < self._attempts:
            self.num_retried += 1
            self._queue.append(call)
            self._news.set()
            return
        self.num_unscored += 1
        prompt = call.texts[0].strip()
        shown = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[:_PROMPT_CHARS]}…"
        self._give_up(
            call,
            Unscored(f"reward {call.reward!r} {cause} (x{call.attempts}) on the prompt {shown!r}"),
        )

    def _give_up(self, call: _Call, error: RealnetError) -> None:
        if not call.done.done():
            call.done.set_exception(error)
