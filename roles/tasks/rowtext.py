"""One row of data as texts, from a line of JSON or from values. Knows nothing of files or tasks.

A column that is null in a row is not there: "null" is no question and no answer.
"""

from __future__ import annotations

import json
from typing import Any

from realnet.errors import ConfigError


def parse_line(line: str, where: str) -> dict[str, str]:
    """Return one line of a file of JSON lines. Raises ConfigError opening with `where`."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a row of data") from None
    if not isinstance(value, dict):
        raise ConfigError(
            f'{where}: a JSON object is needed ({{"question": ...}}), '
            f"this is a {type(value).__name__}"
        )
    return as_row(value)


def as_row(values: dict[Any, Any]) -> dict[str, str]:
    """Return a row's columns as texts, without those that are null."""
    return {str(key): as_text(item) for key, item in values.items() if item is not None}


def decoded(line: bytes, where: str) -> str:
    """Return a line of a file as text. Raises ConfigError opening with `where`."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8, as a file of JSON lines is: {error}") from None


def as_text(value: Any) -> str:
    """Return any value of a row as text: what is none already as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent
