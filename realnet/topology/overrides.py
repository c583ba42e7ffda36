"""`--set path=value`: one value changed from the command line, as if a last file had written it.

The value is TOML (`--set run.until.steps=5`), or a bare text
(`--set roles.trainer.algorithm=grpo`); `false` removes, as in a file.

Knows nothing of role classes. Called by `source.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

from realnet.errors import ConfigError, listed, nearest

_KEY = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""
_SET = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=(.*)", re.DOTALL)


def apply_overrides(
    tables: dict[str, Any],
    origin: dict[str, str],
    overrides: Sequence[str],
    plain: Sequence[str],
    named: Sequence[str],
) -> list[str]:
    """Apply them in order to the merged tables; return a complaint for each that cannot be.

    `plain` are the tables that hold keys, `named` those that hold sections.
    """
    problems = []
    fresh = _sections_begun(overrides)
    for text in overrides:
        try:
            _apply(tables, origin, text, (tuple(plain), tuple(named)), fresh)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _sections_begun(overrides: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the sections that the overrides themselves give a `kind` or a `like`."""
    found: set[tuple[str, ...]] = set()
    for text in overrides:
        keys = _keys(text)
        if len(keys) == 3 and keys[2] in ("kind", "like"):
            found.add((keys[0], keys[1]))
    return found


def _keys(text: str) -> list[str]:
    match = _SET.fullmatch(text)
    if match is None:
        return []
    found: list[str] = []
    table: Any = tomllib.loads(f"{match[1]} = 0")
    while isinstance(table, dict):
        found += table
        table = table[found[-1]]
    return found


def _apply(
    tables: dict[str, Any],
    origin: dict[str, str],
    text: str,
    kinds: tuple[tuple[str, ...], tuple[str, ...]],
    fresh: set[tuple[str, ...]],
) -> None:
    keys = _keys(text)
    known = ("title", *kinds[0], *kinds[1])
    if not keys or (len(keys) < 2 and keys != ["title"]):
        sample = "write table.key=value, for example run.until.steps=5"
        top = f".{nearest(keys[0], known)}" if keys else ""
        raise ConfigError(f"--set {text}: {sample}{top}")
    if keys[0] not in known:
        hint = f" Did you mean roles.{text}?" if keys[0] in tables.get("roles", {}) else ""
        raise ConfigError(
            f"--set {text}: write table.key=value, for example run.until.steps=5."
            f"{hint or nearest(keys[0], known)} Tables: {listed(known)}"
        )
    value = _value(text)
    named = keys[0] in kinds[1]
    if named and tuple(keys[:2]) not in fresh:
        _check_section(tables, keys, value, text)
    table = tables
    for depth, key in enumerate(keys[:-1]):
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {text}: {'.'.join(keys[: depth + 1])} is {inner!r}, not a table"
            )
        table = inner
    last, path = keys[-1], ".".join(keys)
    if value is False and not isinstance(table.get(last, False), bool):
        del table[last]  # as in a file
        for gone in [p for p in origin if p == path or p.startswith(path + ".")]:
            del origin[gone]
        return
    if value is False and last not in table and (keys[0] == "wires" or (named and len(keys) == 2)):
        raise ConfigError(
            f"--set {text}: there is nothing of that name to remove.{nearest(last, table)} "
            f"[{'.'.join(keys[:-1])}] has: {listed(table)}"
        )
    if named and len(keys) == 2 and not isinstance(value, dict):
        raise ConfigError(f"--set {text}: [{path}] is a table; set a key of it")
    table[last] = value
    section = 2 if named else 1
    for depth in range(section + 1, len(keys) + 1):
        origin[".".join(keys[:depth])] = "--set"
    if keys == ["title"]:
        origin["title"] = "--set"


def _check_section(tables: dict[str, Any], keys: list[str], value: Any, text: str) -> None:
    """Refuse a key of a section that nobody wrote, when that is most likely a slip."""
    sections = tables.get(keys[0], {})
    if keys[1] in sections or isinstance(value, dict):
        return
    close = nearest(keys[1], sections)
    if len(keys) > 2 and (close or keys[0] == "roles"):
        raise ConfigError(
            f"--set {text}: there is no [{keys[0]}.{keys[1]}].{close} "
            f"[{keys[0]}] has: {listed(sections)}; a new one needs its kind or like set as well"
        )


def _value(text: str) -> Any:
    match = _SET.fullmatch(text)
    written = match[2].strip() if match else ""
    if not written:
        raise ConfigError(f"--set {text}: there is no value after the =")
    try:
        return tomllib.loads(f"v = {written}")["v"]
    except tomllib.TOMLDecodeError as error:
        if written[0] in "{[\"'":
            why = re.sub(r" \(at .*", "", str(error))
            raise ConfigError(f"--set {text}: the value is no TOML: {why}") from None
        return written
