"""These tests need vLLM: `make test-vllm` brings it."""

from __future__ import annotations

import importlib.util
from multiprocessing import resource_tracker

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    resource_tracker.ensure_running()  # multiprocessing's, until the interpreter ends: no test's
