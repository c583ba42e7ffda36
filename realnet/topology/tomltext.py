"""A TOML file read, and its mistakes of spelling told with the line they stand in.

Knows TOML, not what a topology means. Called by `source.py`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from realnet.errors import ConfigError

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")
_SHOWN = 100  # characters of a line


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a file. Raises ConfigError showing the line that is no TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path.name}: not TOML: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_told(path.name, text, str(error))) from None


def _told(name: str, text: str, error: str) -> str:
    lines = text.splitlines() or [""]
    at = _AT.search(error)
    number = int(at[1]) if at and at[1] else len(lines)
    column = int(at[2]) if at and at[2] else len(lines[-1]) + 1
    line = lines[min(number, len(lines)) - 1].replace("\t", " ")
    what = _AT.sub("", error)
    hint = _hint(line, text, what)
    told = f"{name}: line {number}, column {column}: not TOML: {what}.{hint}"
    if len(line) <= _SHOWN:
        told += f"\n    {line}\n    {' ' * (column - 1)}^"
    return told


def _hint(line: str, text: str, what: str) -> str:
    """Return what the writer most likely meant."""
    if re.search("[\u201c\u201d\u2018\u2019]", line):
        return " It has typographic quotes; write \" or '."
    pair = re.match(r"""\s*([\w."-]+)\s*(=|:)\s*(.*?)\s*(?:#.*)?$""", line)
    if pair is None:
        if line.lstrip().startswith("[") and "]" not in line:
            return " A table's name ends with ]."
        if re.fullmatch(r"\s*[\w.-]+\s*(?:#.*)?", line):
            return " A key needs a value: key = value."
        return ""
    key, sign, value = pair.groups()
    if sign == ":":
        return f" Write = after a key, not a colon: {key} = {value}"
    if what.startswith("Cannot overwrite") or "twice" in what or "duplicate" in what.lower():
        return f' "{key}" is written twice in one table.'
    if value in ("True", "False", "None", "null", "yes", "no", "on", "off"):
        meant = {"True": "true", "yes": "true", "on": "true"}.get(value, "false")
        return f" Write {meant}."
    if not value:
        return f" {key} has no value."
    if re.match(r"""[^"'\[{]*[A-Za-z_/]""", value) and value not in ("true", "false"):
        return f' A text stands in quotes: {key} = "{value.strip(chr(34))}"'
    return ""
