"""`python -m realnet.roles.models.native`: builds the kernels for this machine, or says why not.

Called by people and by `make kernels`.
"""

from __future__ import annotations

import sys

from realnet.roles.models.native.built import build

if __name__ == "__main__":
    path, why = build()
    if why:
        sys.exit(f"models train by torch's operations alone: {why}")
    print(f"built {path}")  # noqa: T201
