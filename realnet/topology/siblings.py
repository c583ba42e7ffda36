"""Modules beside a role's file: `import helper` in roles.py finds helper.py of the same folder.

As for a program that Python runs, but last of all: nothing beside a topology hides a module of
Python or of a package. A file that is loaded already, because a topology names a class of it, is
that module, or its classes would exist twice.

Several topologies may be loaded in one process (tests do so): modules are looked for beside the
file that was loaded last, then beside others, and what was found before has to be found again.

Knows nothing of roles. Called by `kinds.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

MAX_FOLDERS = 16


class _Loaded(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # its own, not that of its second name


class Siblings(MetaPathFinder):
    """Finds modules in the folders of files that were loaded, the last one first."""

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._found: set[str] = set()

    def are_in(self, folder: Path) -> None:
        """From now on they are looked for in this folder first."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        if [str(folder)] != self._folders[:1]:
            for name in self._found:
                sys.modules.pop(name, None)
            self._found = set()
            others = [other for other in self._folders if other != str(folder)]
            self._folders = [str(folder), *others[: MAX_FOLDERS - 1]]

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None:  # within a package
            return None
        spec = PathFinder.find_spec(name, self._folders)
        if spec is None or spec.origin is None:  # a mere folder is no package here
            return None
        self._found.add(name)
        loaded = module_of(Path(spec.origin))
        return spec if loaded is None else spec_from_loader(name, _Loaded(loaded))


SIBLINGS = Siblings()


def module_of(path: Path) -> ModuleType | None:
    """Return the module that was loaded from a file, if one was."""
    for known in list(sys.modules.values()):
        file = getattr(known, "__file__", None)
        if isinstance(file, str) and file.endswith(path.name) and Path(file).resolve() == path:
            return known
    return None
