"""One engine of each kind for all tests of the contract: vLLM's takes long to start."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from engine_rig import Rig, rig

HERE = ["fake", "torch", "torch-stale"]
THERE = ["vllm-here", "vllm", "vllm-stale"] if importlib.util.find_spec("vllm") else []


@pytest_asyncio.fixture(params=HERE + THERE, scope="module", loop_scope="module")
async def engine(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A running engine with the first version."""
    async with rig(request.param, tmp_path_factory.mktemp("work")) as made:
        await made.load(1)
        yield made
