r"""Prompt templates: text with {column}s.

Only `{name}` is a placeholder; other braces stay as they are, so that "\boxed{}" and JSON can stand
in a prompt. `{{name}}` writes a literal {name}. Knows nothing of tasks or models. Called by
`dataset.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from realnet.errors import ConfigError, LostReference, nearest

_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


class Template:
    """One prompt template. `names` are its placeholders, in order of first use."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = (match[2] for match in _PLACEHOLDER.finditer(text) if match[2])
        self.names = tuple(dict.fromkeys(found))

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with each {name} replaced. All names must be in `values`."""
        return _PLACEHOLDER.sub(lambda m: "{" + m[1] + "}" if m[1] else values[m[2]], self.text)


def read_template(value: str, base: Path, where: str) -> Template:
    """Return the template that `value` is, or that stands in the .txt file it names.

    Raises ConfigError when the file is not there, or when the template asks nothing of a row.
    """
    text = value
    if is_path(value):
        path = base / value
        try:
            text = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LostReference(
                f"{where}.prompt = {value!r}: cannot read {path}: {describe(error)}."
                f"{near_file(path)} It is taken relative to the topology's folder."
            ) from None
    template = Template(text)
    if not template.names:
        raise ConfigError(
            f"{where}.prompt: the template has no {{column}}, so that every prompt would be the "
            'same. Write for example prompt = "{question}"'
        )
    return template


def is_path(value: str) -> bool:
    """Tell a template's path from a template: one line that ends in .txt and has no braces."""
    return value.endswith(".txt") and "\n" not in value and "{" not in value


def describe(error: Exception) -> str:
    """Return the short text of a failed read."""
    return getattr(error, "strerror", None) or str(error)


def near_file(path: Path) -> str:
    """Return ' Did you mean "x"?' for a file in the same folder with a similar name."""
    if not path.parent.is_dir():
        return f" There is no folder {path.parent}."
    return nearest(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_file()))
