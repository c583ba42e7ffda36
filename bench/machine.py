"""Where and when something was measured: date, machine, versions, load; and how it is kept."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

Keep = Callable[[dict[str, Any]], None]  # writes down what a part has measured so far
VERSIONS = ("realnet-rl", "torch", "transformers", "numpy")


def about() -> dict[str, str]:
    """Return it as texts."""
    names = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((n.partition(":")[2].strip() for n in names if n.startswith("model name")), "?")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = []
    for name in VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} x {cpu}, {memory_gb:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
        "load": f"{os.getloadavg()[0]:.1f}",
    }
