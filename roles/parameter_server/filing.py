"""Versions in files: the newest ones of a policy, and the bases that they are laid over.

A base is written once, before the first version that is laid over it, and stays as long as one of
those does. What an earlier attempt left is found by its heads; who takes one checks its digests.

Knows files and leases; knows nothing of wires. Blocking: called by the parameter server in threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from realnet.roles.messages import Held, Location, Manifest, Source, Version
from realnet.roles.weights import WeightReader, disk
from realnet.roles.weights.adapters import base_version


class Filing:
    """The files of one policy; `keep` versions stay."""

    def __init__(self, folder: Path, policy: str, keep: int) -> None:
        self._folder = folder
        self._policy = policy
        self._keep = keep
        self.versions: dict[Version, Held] = {}
        self.bases: dict[str, Held] = {}  # by digest: each life of a trainer names its own

    def find(self) -> None:
        """Take up the whole ones that an earlier life left. Those without their base are none."""
        bases = self._read(disk.files_of(self._folder, self._base_policy))
        self.bases = {held.manifest.digest: held for held in bases}
        found = self._read(disk.files_of(self._folder, self._policy)[-self._keep :])
        self.versions = {h.manifest.version: h for h in found if self._has_base(h.manifest)}

    def write(self, held: Held, base: Held | None) -> None:
        """Write a version, after its base if that is in no file. Raises OSError, WeightsGone.

        What is known is replaced at once: it is looked at from another thread.
        """
        if base is not None and base.manifest.digest not in self.bases:
            self._write(base)
            self.bases = {**self.bases, base.manifest.digest: self._filed(base.manifest)}
        self._write(held)
        stay = set(disk.keep(self._folder, self._policy, self._keep))
        known = {**self.versions, held.manifest.version: self._filed(held.manifest)}
        self.versions = {v: h for v, h in known.items() if self._path(v) in stay}
        self._drop_bases()

    def only_filed(self, in_memory: Iterable[Version]) -> list[Held]:
        """Return the versions that are in files and not in memory."""
        known = set(in_memory)
        return [held for version, held in self.versions.items() if version not in known]

    def sources(self, manifest: Manifest) -> tuple[Source, ...]:
        """Return the source of a version or base that is in a file."""
        held = self.versions.get(manifest.version) or self.bases.get(manifest.digest)
        return held.sources if held is not None else ()

    @property
    def _base_policy(self) -> str:
        return base_version(Version(self._policy, 0, 0)).policy

    def _drop_bases(self) -> None:
        """Remove the files of bases that no version is laid over any more."""
        wanted = {h.manifest.over.digest for h in self.versions.values() if h.manifest.over}
        known = self.bases
        self.bases = {digest: held for digest, held in known.items() if digest in wanted}
        for digest in known.keys() - self.bases.keys():
            self._path(known[digest].manifest.version).unlink(missing_ok=True)

    def _has_base(self, manifest: Manifest) -> bool:
        return manifest.over is None or manifest.over.digest in self.bases

    def _read(self, paths: Iterable[Path]) -> list[Held]:
        found = map(disk.read_manifest, paths)
        return [self._filed(manifest) for manifest in found if manifest is not None]

    def _write(self, held: Held) -> None:
        reader = WeightReader()
        try:
            with reader.mapped(held) as view:
                disk.write(self._folder, held.manifest, view)
        finally:
            reader.close()

    def _filed(self, manifest: Manifest) -> Held:
        source = Source("disk", "", str(self._path(manifest.version)))
        return Held(manifest, Location("", 0, 0), (source,))

    def _path(self, version: Version) -> Path:
        return disk.path_of(self._folder, version)
