"""Role files import what lies beside them, each the module of its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realnet import LostReference
from realnet.testing import running
from realnet.topology.kinds import load_object

RECORDS = """
from realnet import Message

class Number(Message):
    value: int
"""
SOURCE = """
from records import Number
from realnet import Actor, Config, Outlet

class Source(Actor[Config]):
    numbers = Outlet(Number)

    async def run(self):
        for value in range(5):
            await self.numbers.send(Number(value), key=str(value))
"""
SINK = """
import json
from records import Number
from source import Source
from realnet import Actor, Config, Inlet

class Sink(Actor[Config]):
    numbers = Inlet(Number)

    async def start(self):
        self.got = []

    @numbers.handler
    async def on_number(self, item):
        self.got.append(item.body.value)
"""
TOPOLOGY = """
[roles.source]
kind = "source.py:Source"
[roles.sink]
kind = "sink.py:Sink"
[wires]
work = "source -> sink"
"""


def written(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    files = {"records.py": RECORDS, "source.py": SOURCE, "sink.py": SINK, "json.py": "1 / 0"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def load(folder: Path, reference: str) -> Any:
    return load_object(reference, folder, "here")


async def test_roles_in_several_files_share_their_records(tmp_path: Path) -> None:
    async with running(TOPOLOGY, written(tmp_path)) as run:
        await run.until(lambda: run.is_up("sink/0"))
        await run.until(lambda: sorted(run.actor("sink/0").got) == list(range(5)))


def test_one_file_is_one_module_and_none_of_pythons_is_hidden(tmp_path: Path) -> None:
    written(tmp_path)
    source, sink = load(tmp_path, "source.py:Source"), load(tmp_path, "sink.py:Sink")
    module = load(tmp_path, "sink.py:Source").__module__
    assert load(tmp_path, "sink.py:Source") is source
    assert (source.__module__, sink.__module__) == ("realnet_user_source", "realnet_user_sink")
    assert module == source.__module__
    assert load(tmp_path, "sink.py:json").dumps([1]) == "[1]"
    assert load(tmp_path, "records.py:Number") is load(tmp_path, "sink.py:Number")


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    (two / "records.py").write_text(RECORDS.replace("value: int", "value: float"))
    numbers = [load(folder, "source.py:Number") for folder in (one, two)]
    assert numbers[0] is not numbers[1]
    assert [n.__annotations__["value"] for n in numbers] == [int, float]
    assert load(one, "sink.py:Number") is not numbers[1]


def test_what_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "roles.py").write_text("import json\nimport helpr\n")
    (tmp_path / "helper.py").touch()
    (tmp_path / "helpr").mkdir()  # a folder is no package
    with pytest.raises(LostReference, match="line 2: ModuleNotFoundError: No module named 'helpr'"):
        load(tmp_path, "roles.py:A")
