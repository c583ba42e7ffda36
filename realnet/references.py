"""References: how a topology names what lies outside it.

    hf:owner/name[/subset][:split][@rev]   a model or data set of the Hugging Face hub
    ./path  ../path  /path  folder/file    a file or folder, from the file that wrote it
    new:NAME                               made on the spot
    run:NAME[@step]                        a checkpoint of another run: of a step, @best or @last;
                                           a folder may stand for the name
    pkg.mod:name  file.py:name             a function or class

Knows their spelling, not whether they lead anywhere: roles open them, and say so if they cannot.
Called by `config.py` for fields marked with `Reference`, and by whoever opens one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from realnet.errors import nearest

SCHEMES = ("hf", "new", "run")
_SHAPE = {
    "hf": "hf:owner/name[/subset][:split][@rev]",
    "new": "new:NAME",
    "run": "run:NAME[@step]",
    "path": "./path",
    "code": "pkg.mod:name or file.py:name",
}
_HF = re.compile(
    r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:/(?P<subset>[\w.-]+))?"
    r"(?::(?P<split>[\w.+\[\]%-]+))?(?:@(?P<rev>[\w./-]+))?"
)
_RUN = re.compile(r"(?P<name>[^:@]*[^:@\s/])(?:@(?P<step>\d+|best|last))?")
_CODE = re.compile(r"(?P<place>[\w./-]+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class HubReference:
    """`hf:owner/name[/subset][:split][@rev]`."""

    owner: str
    name: str
    subset: str = ""
    split: str = ""
    rev: str = ""


@dataclass(frozen=True)
class PathReference:
    """A file or folder; relative to the folder of the file that wrote it."""

    path: str


@dataclass(frozen=True)
class NewReference:
    """`new:NAME`: made on the spot."""

    name: str


@dataclass(frozen=True)
class RunReference:
    """`run:NAME@step`: a checkpoint of another run; step "best", "last" or its number."""

    name: str
    step: str = "last"


@dataclass(frozen=True)
class CodeReference:
    """`pkg.mod:name` or `file.py:name`."""

    place: str
    name: str


AnyReference = HubReference | PathReference | NewReference | RunReference | CodeReference


@dataclass(frozen=True)
class Reference:
    """Marks a text field: `data: Annotated[str, doc("rows"), Reference("hf", "path", "new")]`.

    `kinds` are the kinds that the field takes: hf, path, new, run, code. An empty text is left to
    the field. `check` complains of one that is misspelt or of another kind.
    """

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str):
        object.__setattr__(self, "kinds", kinds or tuple(_SHAPE))

    def check(self, text: str) -> None:
        """Raise ValueError saying what is wrong and how it is written."""
        if not text:
            return
        kind = _kind_of(parse_reference(text, self.kinds))
        if kind not in self.kinds:
            raise ValueError(f"{_a_kind(kind)} does not do here: write {self.shapes()}")

    def shapes(self) -> str:
        """Return how the kinds that do here are written."""
        return " or ".join(_SHAPE[kind] for kind in self.kinds)


def parse_reference(text: str, kinds: tuple[str, ...] = tuple(_SHAPE)) -> AnyReference:
    """Return what a reference says. Raises ValueError; `kinds` are the ones it then tells of."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "hf":
        match = _HF.fullmatch(rest)
        if match is None:
            raise ValueError(_misspelt("hf", _hf_hint(rest)))
        return HubReference(**{k: v or "" for k, v in match.groupdict().items()})
    if colon and scheme == "new":
        if not re.fullmatch(r"[\w.-]+", rest):
            raise ValueError(_misspelt("new", "it names what is made, with nothing after it"))
        return NewReference(rest)
    if colon and scheme == "run":
        match = _RUN.fullmatch(rest)
        if match is None:
            raise ValueError(_misspelt("run", "the step is a whole number, best or last"))
        return RunReference(match["name"], match["step"] or "last")
    code = _CODE.fullmatch(text)
    if code is not None and scheme not in _slips():
        return CodeReference(code["place"], code["name"])
    if not colon and text.strip() and "\n" not in text:
        return PathReference(text)
    shapes = " or ".join(_SHAPE[kind] for kind in kinds)
    if not colon:
        raise ValueError(f"it is no reference: write {shapes}")
    known = [f"{k}:{rest}" for k in SCHEMES if k in kinds]
    guess = _slip(scheme, rest, kinds) or nearest(text, known)
    raise ValueError(f'no reference begins with "{scheme}:".{guess} Write {shapes}')


def _slips() -> dict[str, str]:
    """Return what people write instead of a scheme."""
    return {
        **dict.fromkeys(("http", "https", "huggingface", "hub", "HF", "Hf"), "hf"),
        **dict.fromkeys(("file", "path", "dir"), "path"),
    }


def _slip(scheme: str, rest: str, kinds: tuple[str, ...]) -> str:
    kind = _slips().get(scheme)
    if kind is None or kind not in kinds:
        return ""
    name = re.sub(r"^/*(?:huggingface\.co/)?(?:datasets/)?", "", rest)
    return f' Did you mean "{"hf:" if kind == "hf" else "./"}{name}"?'


def _hf_hint(rest: str) -> str:
    if rest.startswith("/") or "//" in rest:
        return "without an address: owner and name only"
    if "/" not in rest:
        return "the owner is missing"
    if rest.rstrip().endswith(("@", ":")):
        return "something is missing at the end"
    return "a part of it has a sign that no name has" if " " not in rest else "it has no spaces"


def _misspelt(kind: str, why: str) -> str:
    return f"{why}: write {_SHAPE[kind]}"


def _kind_of(reference: AnyReference) -> str:
    return {
        HubReference: "hf",
        PathReference: "path",
        NewReference: "new",
        RunReference: "run",
        CodeReference: "code",
    }[type(reference)]


def _a_kind(kind: str) -> str:
    return {
        "hf": "something of the Hugging Face hub",
        "path": "a path",
        "new": "something made on the spot",
        "run": "another run",
        "code": "a function or class",
    }[kind]
