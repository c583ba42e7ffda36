"""Gangs of learners in real processes, without actors: orders travel through unix sockets.

`Gangs.play(scenario, ranks, ...)` runs a function of `learner_scenarios.py` in rank 0 and returns
what it returns; the other ranks follow until it is over. Importing what a learner needs takes
seconds, so it is done once, by a process of one thread that then forks the ranks of each gang.

Called by conftest.py, whose fixture `play` the tests use.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Gangs:
    """Plays scenarios, one gang after the other."""

    def __init__(self) -> None:
        given_path = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(HERE.parent), str(HERE), *([given_path] if given_path else [])])
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def play(self, scenario: str, ranks: int, **given: Any) -> Any:
        """Run a scenario in a gang of so many ranks; raises AssertionError with what went wrong."""
        assert self._parent.stdin
        assert self._parent.stdout
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            (at / "plan").write_bytes(pickle.dumps((scenario, ranks, given)))
            self._parent.stdin.write(f"{ranks} {folder}\n".encode())
            self._parent.stdin.flush()
            ended = self._parent.stdout.readline().decode().strip()
            errors = [path.read_text() for path in sorted(at.glob("error*"))]
            assert ended == "well", "\n".join(errors) or ended or "the ranks' parent is gone"
            return pickle.loads((at / "result").read_bytes())  # noqa: S301 - ours

    def close(self) -> None:
        """End what is still there: the ranks too, if a test gave up on them."""
        self._parent.terminate()
        self._parent.communicate()


def _forks() -> None:
    """Be the parent of gangs: a line of standard input says how many ranks, and where."""
    import learner_scenarios  # noqa: F401 - what all of them need

    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not be there after a fork"
    ranks: set[int] = set()

    def end(*_: object) -> None:
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for line in sys.stdin:
        count, _, folder = line.strip().partition(" ")
        for rank in range(int(count)):
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os._exit(_rank(Path(folder), rank))
            ranks.add(pid)
        said = "well"
        while ranks:  # when one fails, the others would wait for it
            pid, status = os.wait()
            ranks.discard(pid)
            if status and said == "well":
                said = f"a rank ended with {os.waitstatus_to_exitcode(status)}"
                for other in ranks:
                    os.kill(other, signal.SIGKILL)
        print(said, flush=True)


def _rank(folder: Path, rank: int) -> int:
    """Be one rank; return the exit code."""
    os.dup2(2, 1)  # standard output is the parent's, for what it answers
    try:
        main(folder, rank)
    except BaseException:
        (folder / f"error{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


class Told:
    """Rank 0's way to the others: one conversation each, one order at a time."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._connections: dict[int, Connection[Any, Any]] = {}
        self._threads = {rank: ThreadPoolExecutor(1) for rank in range(1, ranks)}
        with Listener(str(folder / "orders"), "AF_UNIX") as listener:
            (folder / "listens").touch()
            for _ in range(1, ranks):
                connection = listener.accept()
                self._connections[connection.recv()] = connection

    def tell(self, rank: int, order: Any) -> Future[Any]:
        return self._threads[rank].submit(self._ask, self._connections[rank], order)

    def close(self) -> None:
        for rank, connection in self._connections.items():
            self._threads[rank].shutdown()
            connection.send(None)

    @staticmethod
    def _ask(connection: Connection[Any, Any], order: Any) -> Any:
        connection.send(order)
        return connection.recv()


def _follow(stage: Any, connection: Connection[Any, Any], rank: int) -> None:
    from realnet.roles.trainer.fsdp import meeting
    from realnet.roles.trainer.fsdp.follower import obey
    from realnet.roles.trainer.fsdp.records import Report

    shard = stage.shard()
    connection.send(rank)
    while (order := connection.recv()) is not None:
        if order.move == "meet":
            shard.meet(meeting.join_store(order.host, order.port, shard.ranks))
            report = Report()
        elif order.move == "write":
            report = Report(files=shard.write(Path(order.folder)))
        else:
            report = obey(shard, order)
        connection.send(report)


def main(folder: Path, rank: int) -> None:
    """Be one rank."""
    import learner_scenarios as scenarios

    scenario, ranks, given = pickle.loads((folder / "plan").read_bytes())  # noqa: S301
    stage = scenarios.Stage(rank, ranks, **given)
    if rank:
        while not (folder / "listens").exists():
            time.sleep(0.02)
        _follow(stage, Client(str(folder / "orders"), "AF_UNIX"), rank)
        return
    told = Told(folder, ranks)
    result = getattr(scenarios, scenario)(stage, told.tell)
    (folder / "result").write_bytes(pickle.dumps(result))
    told.close()


if __name__ == "__main__":
    _forks()
