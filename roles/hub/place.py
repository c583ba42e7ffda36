"""Where a pinned model or data set lies in the Hugging Face cache. Looks only; no network.

Knows the lock file and the cache's layout. Called by `models` and `tasks`, in every role.
"""

from __future__ import annotations

from pathlib import Path

from realnet.errors import LostReference
from realnet.roles.hub.lock import LOCK, Pin, key_of, read_lock


def locate_model(reference: str, base: Path, where: str) -> Path:
    """Return the folder of the model that "hf:owner/name[@rev]" means.

    `where` opens complaints. Raises LostReference when it was not fetched, or is not whole.
    """
    pin = _pin("model", reference, base, where)
    folder = snapshot(pin)
    _check(pin, folder, reference, where)
    return folder


def locate_dataset(reference: str, base: Path, where: str) -> list[Path]:
    """Return the files of the split that "hf:owner/name[/subset][:split][@rev]" means, in order.

    Raises LostReference as `locate_model` does.
    """
    pin = _pin("dataset", reference, base, where)
    folder = snapshot(pin)
    _check(pin, folder, reference, where)
    return [folder / name for name in pin.files]


def snapshot(pin: Pin) -> Path:
    """Return the folder that the cache keeps for a commit, there or not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=pin.repo, repo_type=pin.kind)
    return Path(constants.HF_HUB_CACHE) / name / "snapshots" / pin.commit


def missing(pin: Pin) -> list[str]:
    """Return the files of a pin that are not in the cache."""
    folder = snapshot(pin)
    return [name for name in pin.files if not (folder / name).is_file()]


def _pin(kind: str, reference: str, base: Path, where: str) -> Pin:
    pin = read_lock(base).get(key_of(kind, reference))
    if pin is None:
        raise LostReference(
            f'{where} = "{reference}": it was not fetched: {base / LOCK} does not name it. Where '
            "there is a network: realnet fetch TOPOLOGY"
        )
    return pin


def _check(pin: Pin, folder: Path, reference: str, where: str) -> None:
    lost = missing(pin)
    if lost:
        raise LostReference(
            f'{where} = "{reference}": {len(lost)} of its {len(pin.files)} files are not in the '
            f"cache of this machine ({lost[0]}, in {folder}). Where there is a network: realnet "
            "fetch TOPOLOGY; HF_HOME says where the cache is"
        )
