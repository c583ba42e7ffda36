"""docs/tutorial.md: its code is the code, its commands run, and a killed counter loses no word."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT, blocks, check_code, realnet, run_commands
from real_run import RealRun

from realnet.observe.status import read_status

DATA = ROOT / "topologies" / "data" / "words"
FILES = ("realnet/examples/words.py", "tests/realnet/test_words.py", "topologies/words.toml")
BLOCKS = blocks("tutorial.md")


def found(times: int) -> dict[str, object]:
    """What must come out, counted here without any network."""
    text = (DATA / "jabberwocky.txt").read_text(encoding="utf-8")
    known = set((DATA / "dictionary.txt").read_text(encoding="utf-8").split())
    words = Counter(w for w in re.findall("[a-z]+", text.lower()) if w not in ("the", "and"))
    return {
        "lines": times * len(text.splitlines()),
        "words": {word: times * num for word, num in words.items()},
        "strange": sorted(set(words) - known),
    }


def test_the_code_on_the_page_is_the_code() -> None:
    assert check_code(BLOCKS, FILES) >= 9


@pytest.mark.slow
def test_the_commands_on_the_page_run(tmp_path: Path) -> None:
    assert run_commands(BLOCKS, tmp_path, wrong=lambda line: "windwo" in line) >= 10
    assert json.loads((tmp_path / "runs" / "first" / "words.json").read_text()) == found(1)
    assert json.loads((tmp_path / "runs" / "inline" / "words.json").read_text()) == found(1)


def test_a_counter_is_killed_and_every_word_counts_once(
    start: Callable[..., RealRun], tmp_path: Path
) -> None:
    times = 150
    run = start(Path("words"), "--set", f"roles.reader.times={times}", cwd=tmp_path)
    for slot in ("counter/0", "counter/1"):
        run.until(lambda slot=slot: works(run, slot))
        run.kill(slot)
        run.until(lambda slot=slot: f"{slot} is started again (restart 1)" in run.events())
    assert run.wait() == 0, run.output()
    assert sum("died: killed by SIGKILL" in e for e in run.events()) == 2
    assert json.loads((run.folder / "words.json").read_text()) == found(times)


def works(run: RealRun, slot: str) -> bool:
    """Tell whether this counter has sent what it counted, as `realnet top` does."""
    if not (run.folder / "status.json").is_file():
        return False
    status = read_status(run.folder).slots.get(slot)
    return status is not None and any(
        actor.ports["counts"].done > 0
        for actor in status.actors.values()
        if "counts" in actor.ports
    )


def test_a_breakpoint_inline(tmp_path: Path) -> None:
    code = (ROOT / "realnet" / "examples" / "words.py").read_text(encoding="utf-8")
    where = "        book = await self.book.get()\n        words ="
    assert code.count(where) == 1
    (tmp_path / "mine.py").write_text(code.replace(where, f"        breakpoint()\n{where}"))
    (tmp_path / "text.txt").write_text("one two\n")
    (tmp_path / "dictionary.txt").write_text("one")
    kinds = "".join(
        f'[roles.{name.lower()}]\nkind = "mine.py:{name}"\n{more}\n'
        for name, more in (
            ("Reader", 'text = "text.txt"'),
            ("Counter", ""),
            ("Speller", 'dictionary = "dictionary.txt"'),
            ("Tally", ""),
        )
    )
    (tmp_path / "own.toml").write_text(f'extends = "words"\n{kinds}')
    done = realnet(tmp_path, "realnet run own.toml --inline --name own", "item.body.text\nc\n")
    assert "(Pdb) 'one two'" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert json.loads((tmp_path / "runs" / "own" / "words.json").read_text())["strange"] == ["two"]
