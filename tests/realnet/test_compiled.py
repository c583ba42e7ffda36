"""When the compiled form of the hot path is used, and that it is the sources' own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from realnet import Actor, Config, Local, Message, Request, compiled, handles
from realnet.compiled import Finder, choose, damaged, digest, python_tag
from realnet.compiler import MODULES, _looked_at, build, missing, put
from realnet.stacks import _tasks


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with one source, and what was compiled of it."""
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    (tmp_path / "hot.py").write_text("x = 1\n")
    (tmp_path / "made").mkdir()
    library = tmp_path / "made" / f"hot{python_tag()}"
    library.write_bytes(bytes(4096))
    built = {"file": library.name, "bytes": 4096, "sha256": digest(library)}
    manifest = {
        "python": python_tag(),
        "by": "mypyc 9",
        "sources": {"hot.py": digest(tmp_path / "hot.py")},
        "files": {"there.is.none": built},
    }
    (tmp_path / "made" / "manifest.json").write_text(json.dumps(manifest))
    before = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = before


def finders() -> int:
    return sum(isinstance(finder, Finder) for finder in sys.meta_path)


def test_what_fits_is_used(package: Path) -> None:
    before = finders()
    assert choose(package / "made", package) == "compiled (mypyc 9)"
    assert finders() == before + 1


def test_after_an_edit_the_sources_run(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = finders()
    (package / "hot.py").write_text("x = 2\n")
    assert "hot.py has changed" in choose(package / "made", package)
    assert finders() == before
    monkeypatch.setenv(compiled.SWITCH, "1")
    with pytest.raises(ImportError, match=r"hot\.py has changed"):
        choose(package / "made", package)


def test_what_another_python_made_is_not_used(package: Path) -> None:
    path = package / "made" / "manifest.json"
    path.write_text(path.read_text().replace(python_tag(), ".cpython-27.so"))
    assert "another Python" in choose(package / "made", package)


def test_a_damaged_manifest_is_told(package: Path) -> None:
    (package / "made" / "manifest.json").write_text("{")
    assert "is damaged" in choose(package / "made", package)


def test_what_is_not_all_there_or_does_not_load_is_not_used(package: Path) -> None:
    # Beside modules of one form those of the other must not be: it is one or the other.
    before, made = finders(), package / "made" / f"hot{python_tag()}"
    library = made.read_bytes()
    made.unlink()
    assert f"{made} is not there" in choose(package / "made", package)
    made.write_bytes(library)
    path = package / "made" / "manifest.json"
    manifest = json.loads(path.read_text())
    built = manifest["files"]["there.is.none"]
    manifest["files"]["the_library__mypyc"] = built  # as one for a newer libc: not loadable
    path.write_text(json.dumps(manifest))
    assert "cannot be loaded here" in choose(package / "made", package)
    del manifest["files"]
    path.write_text(json.dumps(manifest))
    assert "is damaged" in choose(package / "made", package)
    assert "is damaged" in damaged(package / "made")
    assert finders() == before


def test_a_library_that_was_cut_off_is_not_used(package: Path) -> None:
    # Loaded, it would end the process by SIGBUS, where it is first touched.
    before, made = finders(), package / "made" / f"hot{python_tag()}"
    made.write_bytes(bytes(1000))
    assert f"{made} has 1000 bytes, not 4096 as built" in choose(package / "made", package)
    assert finders() == before


def test_a_library_that_was_changed_is_told(package: Path) -> None:
    assert damaged(package / "made") == ""
    made = package / "made" / f"hot{python_tag()}"
    made.write_bytes(bytes(4095) + b"x")
    assert choose(package / "made", package) == "compiled (mypyc 9)"  # only its size is looked at
    assert f"{made} is not as it was built: make compile" in damaged(package / "made")
    made.unlink()
    assert f"{made} is not as it was built" in damaged(package / "made")


@pytest.mark.skipif(not compiled.FORM.startswith("compiled"), reason="nothing compiled runs")
def test_what_runs_here_is_as_it_was_built() -> None:
    assert damaged() == ""


def test_a_build_takes_the_place_of_another_and_of_none(package: Path) -> None:
    place = package / "_compiled"
    for text in ("first", "second"):
        new = package / f"_compiled.{text}"
        new.mkdir()
        (new / "manifest.json").write_text(text)
        put(new, place)
        assert (place / "manifest.json").read_text() == text
    assert sorted(path.name for path in package.glob("_compiled*")) == ["_compiled"]


def test_every_source_that_the_hot_path_imports_is_looked_at() -> None:
    known = _looked_at(compiled.PACKAGE)
    assert {f"{module.replace('.', '/')}.py" for module in MODULES} <= set(known)
    assert "transport/__init__.py" in known  # a package: what is imported of it stands there


def test_the_switch_says_which(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "0")
    before = finders()
    assert choose(package / "made", package) == "pure Python (REALNET_COMPILED=0)"
    assert finders() == before
    shutil.rmtree(package / "made")
    monkeypatch.setenv(compiled.SWITCH, "1")
    with pytest.raises(ImportError, match="nothing was compiled"):
        choose(package / "made", package)
    monkeypatch.delenv(compiled.SWITCH)
    assert choose(package / "made", package) == "pure Python"


def test_without_a_compiler_it_is_said_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler" in missing()


class Said(Message):
    pass


class Say(Request[Said]):
    pass


class Slow(Actor[Config]):
    """Is at a handler until somebody lets it go on."""

    async def start(self) -> None:
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    @handles
    async def say(self, request: Say) -> Said:
        await self.wait()
        return Said()

    async def wait(self) -> None:
        self.entered.set()
        await self.go.wait()


async def test_stacks_show_what_a_handler_waits_in(tmp_path: Path) -> None:
    # In both forms (make test-compiled): compiled coroutines have no frames.
    async with Local(tmp_path) as local:
        slow = await local.add(Slow, Config())
        asked = asyncio.ensure_future(local.ask(slow, Say()))
        await slow.entered.wait()
        text = _tasks(asyncio.get_running_loop()).decode()
        slow.go.set()
        assert await asked == Said()
    worker = text.partition("Task slow/0 worker:")[2].partition("\n\n")[0]
    assert re.search(r" in wait\n.* in say\n", worker + "\n"), text


LOOK = """
import realnet, sys
from realnet.compiled import FORM
print(FORM, *sorted(n for n in ("torch", "mypy", "mypyc") if n in sys.modules), sep=";")
"""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_copy_that_is_compiled_runs_compiled_until_it_is_edited(tmp_path: Path) -> None:
    shutil.copytree(compiled.PACKAGE, tmp_path / "realnet", ignore=shutil.ignore_patterns("_*d"))
    (tmp_path / "build").mkdir()
    assert build(tmp_path / "build", tmp_path / "realnet" / "_compiled") == ""
    env = os.environ | {"PYTHONPATH": str(tmp_path), compiled.SWITCH: ""}

    def look() -> str:
        command = [sys.executable, "-P", "-c", LOOK]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert look().startswith("compiled (mypyc")
    assert ";" not in look()
    for library in (tmp_path / "realnet" / "_compiled").glob(f"*__mypyc{python_tag()}"):
        whole = library.read_bytes()
        library.write_bytes(whole[: len(whole) // 2])
        assert f"{library} has {len(whole) // 2} bytes" in look()
        library.write_bytes(whole[:-1] + b"x")
        version = [sys.executable, "-P", "-m", "realnet.cli", "--version"]
        done = subprocess.run(version, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, "is not as it was built" in done.stderr) == (1, True), done
        library.write_bytes(whole)
    assert look().startswith("compiled (mypyc")
    with (tmp_path / "realnet" / "calls.py").open("a") as source:
        source.write("# an edit\n")
    assert "calls.py has changed" in look()
