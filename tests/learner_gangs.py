"""Gangs of learners in real processes, without actors: orders travel through unix sockets.

`play(scenario, ranks, ...)` runs a function of `learner_scenarios.py` in rank 0 and returns what it
returns; the other ranks follow until it is over.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

BUDGET_S = 240.0
HERE = Path(__file__).parent


def play(scenario: str, ranks: int, **given: Any) -> Any:
    """Run a scenario in a gang of so many ranks; raises AssertionError with what went wrong."""
    given_path = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HERE.parent), str(HERE), *([given_path] if given_path else [])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "plan").write_bytes(pickle.dumps((scenario, ranks, given)))
        processes = [
            subprocess.Popen([sys.executable, __file__, folder, str(rank)], env=environment)
            for rank in range(ranks)
        ]
        try:
            codes = [_wait(processes, k) for k in range(ranks)]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        errors = [p.read_text() for p in sorted(at.glob("error*"))]
        assert not any(codes), "\n".join(errors) or f"exit codes {codes}"
        return pickle.loads((at / "result").read_bytes())  # noqa: S301 - ours


def _wait(processes: list[subprocess.Popen[bytes]], k: int) -> int:
    """Wait for one rank; when another has failed, for none."""
    end_s = time.monotonic() + BUDGET_S
    while time.monotonic() < end_s and not any(p.poll() for p in processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return processes[k].wait(0.2)
    return processes[k].poll() or -1


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
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except BaseException:
        Path(sys.argv[1], f"error{sys.argv[2]}").write_text(
            f"rank {sys.argv[2]}: {traceback.format_exc()}"
        )
        sys.exit(1)
