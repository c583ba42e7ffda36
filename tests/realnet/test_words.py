"""The example of the tutorial in one loop: what is counted, and what a killed counter loses."""

from __future__ import annotations

from pathlib import Path

from realnet.testing import running

TOPOLOGY = """
extends = "words"
[roles.reader]
text = "text.txt"
skip = []
[roles.speller]
dictionary = "dictionary.txt"
"""


async def test_a_killed_counter_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one fish two fish\n" * 2000)
    (tmp_path / "dictionary.txt").write_text("one two")
    async with running(TOPOLOGY, tmp_path) as run:
        await run.until(lambda: run.is_up("tally/0"))
        tally = run.actor("tally/0")
        await run.until(lambda: len(tally.lines) >= 100)
        run.kill("counter/0")
        await run.until(lambda: len(tally.lines) == 2000)
        assert tally.words == {"one": 2000, "two": 2000, "fish": 4000}
        assert tally.strange == {"fish"}
        assert "counter/0 is started again (restart 1)" in run.events()
