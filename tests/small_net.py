"""The topology of tests/realnet/pipeline.py, ready to be run from a test's own folder."""

from __future__ import annotations

import shutil
from pathlib import Path

FLOOD = ("--set", "roles.source.per_s=0")
PIPELINE = Path(__file__).parent / "realnet" / "pipeline.py"


def topology(folder: Path, *, num: int = 20, workers: int = 2, per_s: int = 0) -> str:
    """Put pipeline.py into `folder` and return a topology beside it; `per_s`: numbers a second."""
    shutil.copy(PIPELINE, folder / "pipeline.py")
    text = PIPELINE.read_text(encoding="utf-8")
    template = text[text.index('TOPOLOGY = """') + 14 :].partition('"""')[0]
    text = template.format(num=num, workers=workers)
    return text.replace("[roles.worker]", f"per_s = {per_s}\n[roles.worker]") if per_s else text
