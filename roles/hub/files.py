"""Which files of a repository are needed: of a model, or of one split of a data set.

A data set says it in the front matter of its README.md (`configs`); where it does not, files are
known by the usual names. Knows names only. Called by the verb `fetch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Any

import yaml

from realnet.errors import LostReference, listed, nearest

_MODEL = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model"),
)
_DATA = (".parquet", ".jsonl", ".json")
_SHOWN = 8


def model_files(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the files of a model that realnet reads. Raises LostReference when it is none."""
    names = list(names)
    found = tuple(sorted(n for n in names if "/" not in n and any(fnmatch(n, p) for p in _MODEL)))
    if "config.json" not in found:
        raise LostReference(f"{where}: it has no config.json: is it a model? {_some(names)}")
    if not any(name.endswith(".safetensors") for name in found):
        raise LostReference(
            f"{where}: it has no *.safetensors: realnet reads weights in no other form (others "
            f"can hold code). {_some(names)}"
        )
    return found


def split_files(
    names: Iterable[str], readme: str, subset: str, split: str, where: str
) -> tuple[str, ...]:
    """Return the files of a split, in order. Raises LostReference saying what there is."""
    data = sorted(name for name in names if name.endswith(_DATA))
    patterns = _told(readme, subset, split, where) or _usual(subset, split)
    for pattern in patterns:
        found = tuple(name for name in data if fnmatch(name, pattern))
        if found:
            return found
    what = f"subset {subset!r}, " if subset else ""
    raise LostReference(
        f"{where}: no parquet or JSON files of {what}split {split!r}. {_some(data)}. It is written "
        "hf:owner/name/subset:split"
    )


def _told(readme: str, subset: str, split: str, where: str) -> list[str]:
    """Return the patterns of a README's `configs`; none when it says nothing."""
    configs = _front_matter(readme).get("configs")
    known = [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []
    if not known:
        return []
    names = [str(c.get("config_name", "default")) for c in known]
    wanted = subset or ("default" if "default" in names or len(names) > 1 else names[0])
    chosen = next((c for c, name in zip(known, names, strict=True) if name == wanted), None)
    if chosen is None and not subset:
        chosen = next((c for c in known if c.get("default")), None)
    if chosen is None:
        raise LostReference(
            f"{where}: it has subsets, of which one is to be named: {listed(names)}"
            if not subset
            else f"{where}: no subset {subset!r}.{nearest(subset, names)} Subsets: {listed(names)}"
        )
    files = chosen.get("data_files")
    if isinstance(files, str):
        files = [{"split": "train", "path": files}]
    splits = [entry for entry in files or [] if isinstance(entry, dict)]
    for entry in splits:
        if entry.get("split") == split:
            path = entry.get("path", [])
            return [path] if isinstance(path, str) else [str(one) for one in path]
    if splits:
        have = [str(entry.get("split")) for entry in splits]
        raise LostReference(
            f"{where}: no split {split!r}.{nearest(split, have)} Splits: {listed(have)}"
        )
    return []


def _usual(subset: str, split: str) -> list[str]:
    folders = [f"{subset}/"] if subset else ["data/", ""]
    ends = (f"{split}-*", f"{split}.*", f"{split}/*")
    return [folder + end for folder in folders for end in ends]


def _front_matter(readme: str) -> dict[str, Any]:
    if not readme.startswith("---"):
        return {}
    try:
        found = yaml.safe_load(readme.split("\n---", 1)[0].removeprefix("---"))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"It has: {', '.join(names[:_SHOWN]) or 'nothing'}{more}"
