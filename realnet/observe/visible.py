"""How texts that a role or a model wrote are shown: nothing in them may steer a terminal.

Knows text only. Called by the view, by the commands that show a run, and by the verbs of roles.
"""

from __future__ import annotations


def visible(text: str, most: int = 0, *, one_line: bool = False) -> str:
    """Return a text with every unprintable character as a picture; `most` (0: all) cuts it.

    Line breaks stay, unless `one_line`: then they are written out.
    """
    if most and len(text) > most:
        return f"{visible(text[:most], one_line=one_line)}… ({len(text)} characters)"
    return "".join(c if c.isprintable() else _picture(c, one_line) for c in text)


def _picture(char: str, one_line: bool) -> str:
    if char == "\n":
        return "\\n" if one_line else char
    if char == "\t":
        return "\\t" if one_line else "    "
    return chr(0x2400 + ord(char)) if ord(char) < 32 else "�"
