"""The reward pool against rewards that hang, crash, flood and lie: a zoo in real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from realnet.errors import ConfigError, RealnetError, Stopping
from realnet.roles.rewards import RewardPool, Unscored

ZOO = '''
import asyncio, os, signal, subprocess, sys, time

async def slow(prompt, text, answer):
    """Wait inside a loop of its own."""
    if text == "hang":
        await asyncio.sleep(1000)
    if text == "raise":
        raise ValueError("async")
    await asyncio.sleep(0)
    return float(text)

def zoo(prompt, text, answer):
    """Do what the text says; `answer` is a file to leave traces in."""
    if text == "hang":
        while True: pass
    if text == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if text == "raise":
        return 1 / 0
    if text == "exit":
        os._exit(3)
    if text == "sys.exit":
        sys.exit("bye")
    if text == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "memory":
        return len(bytearray(4 << 30))
    if text == "flood":
        for _ in range(2000): print("x" * 1000)
        return 0.5
    if text == "stdin":
        return float(len(sys.stdin.read()))
    if text == "none":
        return None
    if text == "nan":
        return float("nan")
    if text == "text":
        return "1.0"
    if text == "huge":
        return 10 ** 400
    if text == "steer":
        raise ValueError("\\x1b[31mred")
    if text == "big file":
        with open(answer, "wb") as file:
            for _ in range(200): file.write(bytes(1 << 20))
    if text == "fork":
        if os.fork() == 0:
            return 7.0
        return 0.25
    if text == "child":
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        return 1.0
    if text == "forged":
        for fd in range(3, 20):
            try: os.write(fd, b"\\xff" * 64)
            except OSError: pass
        time.sleep(1000)
    if text == "once":
        if os.path.exists(answer): return 0.75
        open(answer, "w").close()
        os._exit(1)
    if text == "pid":
        return os.getpid()
    if text == "secret":
        return float("SECRET_TOKEN" in os.environ)
    return float(text)

def fussy(prompt, text, answer, *, stop):
    return float(stop == "stop")
'''

REFERENCE = "zoo.py:zoo"
LIMIT_S = 1.0  # where something hangs; a busy machine may take long over what does not
Make = Callable[..., Awaitable[RewardPool]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "zoo.py").write_text(ZOO)
    return tmp_path


@pytest.fixture
async def make(base: Path) -> AsyncIterator[Make]:
    pools: list[RewardPool] = []

    async def start(*references: str, limit_s: float = 30.0, **options: object) -> RewardPool:
        pool = RewardPool(
            references or [REFERENCE],
            base,
            limit_s=limit_s,
            memory_bytes=1 << 30,
            **options,  # type: ignore[arg-type]
        )
        pools.append(pool)
        await pool.start()
        return pool

    yield start
    for pool in pools:
        await pool.close()


async def ask(pool: RewardPool, text: str, trace: object = "") -> float | str:
    """Return the score, or the reason why there is none."""
    try:
        return await pool.score(REFERENCE, f"prompt of {text}", text, str(trace), "stop")
    except Unscored as error:
        return str(error)


def alive(pid: int) -> bool:
    """Tell whether this process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


BAD = {
    "hang": f"ran {LIMIT_S} s",
    "deaf": f"ran {LIMIT_S} s",
    "raise": "raised ZeroDivisionError: division by zero",
    "exit": "ended its process with exit code 3",
    "sys.exit": "raised SystemExit: bye",
    "segv": "was killed by signal 11 (SIGSEGV)",
    "memory": "used more memory than it may",
    "none": "returned a NoneType, not a number",
    "nan": "returned nan",
    "text": "returned text",
    "huge": "returned a int too large for a score",
    "steer": r"raised ValueError: \x1b[31mred",
    "big file": "raised OSError",
    "forged": "its worker's socket",
}


async def test_an_async_reward_is_awaited_limited_and_told_of(make: Make) -> None:
    name = REFERENCE.replace(":zoo", ":slow")
    pool = await make(name, attempts=2, limit_s=LIMIT_S)
    assert await pool.score(name, "p", "0.75", "", "stop") == 0.75
    with pytest.raises(Unscored, match="raised ValueError: async"):
        await pool.score(name, "p", "raise", "", "stop")
    with pytest.raises(Unscored, match=f"ran {LIMIT_S} s"):
        await pool.score(name, "p", "hang", "", "stop")
    assert await pool.score(name, "p", "0.25", "", "stop") == 0.25


@pytest.mark.parametrize("text", BAD)
async def test_a_bad_call_is_set_aside_with_its_cause_and_the_others_are_scored(
    make: Make, base: Path, text: str
) -> None:
    pool = await make(**({"limit_s": LIMIT_S} if text in ("hang", "deaf", "forged") else {}))
    calls = ["1", "2", text, "3", "4", "5"]
    bad, *good = await asyncio.gather(
        ask(pool, text, base / "file"), *(ask(pool, c) for c in calls if c != text)
    )
    assert good == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert isinstance(bad, str), "a score was made up"
    assert BAD[text] in bad
    assert "zoo.py:zoo" in bad
    assert f"prompt of {text}" in bad
    assert "(x3)" in bad
    assert (pool.num_retried, pool.num_unscored) == (2, 1)


async def test_a_mixed_crowd_gets_each_its_own_answer(make: Make) -> None:
    pool = await make(workers=2, limit_s=LIMIT_S)
    crowd = ["1", "raise", "2", "exit", "3", "none", "4", "hang", "raise", "5"] * 2
    answers = await asyncio.gather(*(ask(pool, text) for text in crowd))
    for text, answer in zip(crowd, answers, strict=True):
        assert BAD[text] in str(answer) if text in BAD else answer == float(text)


async def test_hanging_rewards_do_not_starve_the_pool(make: Make) -> None:
    pool = await make(workers=2, limit_s=LIMIT_S)
    hanging = [asyncio.create_task(ask(pool, "hang")) for _ in range(2)]
    good = [asyncio.create_task(ask(pool, "1")) for _ in range(20)]
    await asyncio.wait(good)
    assert [task.result() for task in good] == [1.0] * 20
    assert not all(task.done() for task in hanging), (
        "they hang three times before they are given up"
    )
    assert all(f"ran {LIMIT_S} s (x3)" in str(reason) for reason in await asyncio.gather(*hanging))


async def test_a_failure_that_goes_away_in_a_fresh_process_is_scored(
    make: Make, base: Path
) -> None:
    pool = await make()
    assert await ask(pool, "once", base / "trace") == 0.75
    assert pool.num_unscored == 0


async def test_each_retry_runs_in_a_fresh_process_and_failures_share_it(make: Make) -> None:
    seen: set[int] = set()
    pool = await make(log=lambda _text: None)
    seen.update(pool.pids)
    reasons = [asyncio.create_task(ask(pool, "raise")) for _ in range(30)]
    while not all(reason.done() for reason in reasons):
        await asyncio.sleep(0.001)
        seen.update(pool.pids)
    assert len(seen) == 3, "30 calls that raise three times each cost two more processes, not 60"


async def test_output_reaches_the_log_up_to_a_cap(make: Make) -> None:
    heard: list[str] = []
    pool = await make(log=heard.append)
    assert await ask(pool, "flood") == 0.5
    await pool.close()
    text = "".join(heard)
    assert "x" * 1000 in text
    assert 60_000 < len(text) < 80_000
    assert "the rest of this reward worker's output is left out" in text


async def test_user_code_reads_nothing_and_sees_no_secrets(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    pool = await make()
    assert await ask(pool, "stdin") == 0.0
    assert await ask(pool, "secret") == 0.0


async def test_workers_give_way_to_others_on_their_host(make: Make) -> None:
    pool = await make(nice=7)
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pool.pids] == [
        min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)
    ]


async def test_a_forked_child_does_not_answer_for_its_parent(make: Make) -> None:
    pool = await make()
    assert await asyncio.gather(*(ask(pool, text) for text in ("fork", "1", "2"))) == [0.25, 1, 2]


async def test_stop_reaches_a_reward_that_asks_for_it(make: Make) -> None:
    pool = await make("zoo.py:fussy", "exact")
    assert await pool.score("zoo.py:fussy", "p", "t", "a", "length") == 0.0
    assert await pool.score("zoo.py:fussy", "p", "t", "a", "stop") == 1.0
    assert await pool.score("exact", "p", "a", "a", "stop") == 1.0


async def test_a_caller_that_goes_away_costs_nothing(make: Make) -> None:
    pool = await make()
    waits = [asyncio.create_task(ask(pool, "1")) for _ in range(5)]
    await asyncio.sleep(0)
    for wait in waits[:4]:
        wait.cancel()
    assert await waits[4] == 1.0


async def test_close_leaves_no_process_behind(make: Make) -> None:
    pool = await make(workers=2, limit_s=30.0)
    pids = {int(float(await ask(pool, "pid"))) for _ in range(4)} | set(pool.pids)
    assert await ask(pool, "child") == 1.0  # left its session and its process group
    marks = _tagged(pool)
    assert len(marks) >= 3
    waits = [asyncio.create_task(ask(pool, "hang")) for _ in range(3)]
    while pool.num_waiting == 3:
        await asyncio.sleep(0.001)
    await pool.close()
    assert not [pid for pid in pids | marks if alive(pid)]
    for wait in waits:
        with pytest.raises(Stopping):
            await wait
    with pytest.raises(Stopping):
        await ask(pool, "1")


def _tagged(pool: RewardPool) -> set[int]:
    """Return the processes that came from this pool; others on this machine have theirs."""
    wanted = [f"REALNET_REWARD_SANDBOX={w._tag}\0".encode() for w in pool._workers]
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                environment = (entry / "environ").read_bytes()
                if any(tag in environment for tag in wanted):
                    found.add(int(entry.name))
        except OSError:
            continue
    return found


async def test_a_worker_killed_from_outside_costs_no_call(make: Make) -> None:
    pool = await make()
    assert await ask(pool, "1") == 1.0
    os.kill(pool.pids[0], signal.SIGKILL)
    assert await asyncio.gather(*(ask(pool, str(i)) for i in range(9))) == list(range(9))


async def test_rewards_that_cannot_be_imported_are_told_at_the_start(
    make: Make, base: Path
) -> None:
    (base / "bad.py").write_text("import not_here\n")
    with pytest.raises(ConfigError, match=r"bad\.py.*not_here"):
        await make("bad.py:f", workers=2)
    with pytest.raises(ConfigError, match='Did you mean "zoo"'):
        await make("zoo.py:zooo")
    pool = await make()
    with pytest.raises(ConfigError, match="not started with"):
        await pool.score("math", "p", "t", "a", "stop")


async def test_a_module_that_breaks_later_fails_the_pool_not_the_scores(
    make: Make, base: Path
) -> None:
    pool = await make()
    (base / "zoo.py").write_text("import not_here\n")
    with pytest.raises(RealnetError, match="not_here"):
        await ask(pool, "exit")
    with pytest.raises(RealnetError, match="not_here"):
        await ask(pool, "1")


def test_workers_die_with_a_parent_that_is_killed(base: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from realnet.roles.rewards import RewardPool\n"
        "async def main():\n"
        f"    pool = RewardPool(['{REFERENCE}'], Path({str(base)!r}), workers=2)\n"
        "    await pool.start()\n"
        "    print(*pool.pids, flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.stdout.read()
    parent.wait()
    parent.stdout.close()
    watched = [pid for pid in pids if alive(pid)]
    while watched:  # the test's own time limit ends this
        watched = [pid for pid in watched if alive(pid)]
