"""Handles of GPU memory: refused by name where there is no GPU. With one, nothing here was run."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from realnet.errors import RealnetError  # noqa: E402
from realnet.roles.weights.cuda_ipc import CudaHandle, opened, share  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(RealnetError, match="needs a GPU that both roles share"):
        share(torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(RealnetError, match="needs a GPU that both roles share"):
        opened(CudaHandle("", b"", 4, 0, b"", 0, b"", False, 4))
