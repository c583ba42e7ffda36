"""The transfer back end `realnet`, inside vLLM's workers: a version is mapped, checked, applied.

    prepare (vLLM's init_transfer_engine)   map the generator's room, check the digest in a thread
                                            while tokens are written, say so through a pipe
    apply   (vLLM's update_weights)         load all of it, layer by layer; the scheduler is paused

Nothing is unpickled: both calls bring paths, numbers and names. Everything is checked before the
model is touched. When applying fails the layers that were not reached keep their old weights, and
the generator applies the whole version again, or gives the engine up.

Knows vLLM's model loading; knows nothing of actors. Called by vLLM's worker.
"""

from __future__ import annotations

import glob
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from realnet.errors import RealnetError
from realnet.roles.messages import Manifest
from realnet.roles.weights import cuda_ipc, lending
from realnet.roles.weights.digests import check
from realnet.roles.weights.layout import Array, tensors

OK = b"+"


@dataclass
class Prepare(WeightTransferInitInfo):
    """A version that lies in `path`, or is lent by `loan`, a `DeviceHandle` as JSON. `manifest` is
    a `Manifest` as JSON; without one, only the name of this worker's GPU is asked for."""

    path: str
    manifest: str
    tell: str  # a pipe: one byte from each worker, or a line that says why not
    loan: str = ""


@dataclass
class Apply(WeightTransferUpdateInfo):
    """Load the version that was prepared."""

    version: str


class RealnetTransfer(WeightTransferEngine[Prepare, Apply]):
    """See the module."""

    init_info_cls = Prepare
    update_info_cls = Apply

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._manifest: Manifest | None = None
        self._map: mmap.mmap | None = None
        self._lent: torch.Tensor | None = None
        self._checking: threading.Thread | None = None
        self._damage = ""
        _unname_shared_memory()

    def init_transfer_engine(self, init_info: Prepare) -> None:
        """Map a version and begin to check it."""
        if not init_info.manifest:
            _tell(init_info.tell, b"=" + cuda_ipc.uuid_of(self.device).encode() + b"\n")
            return
        manifest = msgspec.json.decode(init_info.manifest, type=Manifest)
        self._manifest, self._map, self._damage = manifest, None, "it was not checked"
        self._lent = None
        self._checking = threading.Thread(
            target=self._check, args=(init_info, manifest), name="check version", daemon=True
        )
        self._checking.start()

    def _check(self, staged: Prepare, manifest: Manifest) -> None:
        try:
            if staged.loan:
                handle = msgspec.json.decode(staged.loan, type=cuda_ipc.DeviceHandle)
                device = cuda_ipc.device(handle.device)
                self._lent = lending.open_checked(handle, manifest, device)
            else:
                self._map = _mapped(staged.path, manifest.num_bytes)
                check(manifest, memoryview(self._map), "as vLLM's worker maps it")
            self._damage = ""
        except (OSError, ValueError, RuntimeError, RealnetError) as error:
            self._damage = str(error) or type(error).__name__
        line = " ".join(self._damage.split()).encode()[:1000]
        _tell(staged.tell, line + b"\n" if line else OK)

    def start_weight_update(self) -> None:
        """vLLM wants it called; everything is done in `receive_weights`, all or nothing."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class, which cannot synchronise without an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Apply) -> None:
        """Load the version that was prepared."""
        manifest, checking = self._manifest, self._checking
        if manifest is None or checking is None or str(manifest.version) != update_info.version:
            raise ValueError(f"{update_info.version} was not prepared")
        checking.join()
        if self._damage:
            raise ValueError(f"{manifest.version} is not used: {self._damage}")
        if self._lent is not None:
            weights: Iterable[tuple[str, torch.Tensor]] = lending.views(
                manifest, self._lent
            ).items()
        else:
            assert self._map is not None
            weights = as_torch(tensors(manifest, memoryview(self._map)))
        load(self.model, self.model_config, self.vllm_config, weights)

    def finish_weight_update(self) -> None:
        """Let go of the mapped bytes: everything was copied."""
        self._manifest = self._map = self._lent = self._checking = None

    def shutdown(self) -> None:
        """Let go of the mapped bytes."""
        self.finish_weight_update()


def _unname_shared_memory() -> None:
    """Unlink what the ranks of one engine on the CPU share, once all of them have opened it.

    It lasts as long as it is mapped. vLLM unlinks it when a worker ends by itself; ours are killed
    with whoever started them, and 4 MiB a rank would stay behind each time. Workers get here after
    the barrier behind which everybody has opened it.
    """
    name = os.environ.get("VLLM_DIST_IDENT", "")
    for path in Path("/dev/shm").glob(f"{glob.escape(name)}-*-cpushm_*") if name else ():
        path.unlink(missing_ok=True)


def _tell(pipe: str, what: bytes) -> None:
    with open(pipe, "wb", buffering=0) as file:
        file.write(what)


def load(
    model: Any, model_config: Any, vllm_config: Any, weights: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Load every weight of a model anew, layer by layer, cast to the model's dtype.

    Whatever it raises, layers that were not reached have their old weights, and no parameter is
    left without memory. Nothing may run in the model meanwhile.
    """
    wanted = model_config.dtype
    with set_current_vllm_config(vllm_config):
        initialize_layerwise_reload(model)
        try:
            model.load_weights((name, weight.to(wanted)) for name, weight in weights)
        finally:
            finalize_layerwise_reload(model, model_config)
            _pack_tied(model)


def _pack_tied(model: torch.nn.Module) -> None:
    """Pack anew what shares its weight with another layer, on the CPU.

    vLLM multiplies by packed copies there. A head that is tied to the embedding has one of its own,
    and no weight is loaded for it: it would go on with the packed copy of the version before.
    """
    sharing: dict[int, list[torch.nn.Module]] = {}
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.numel():
            sharing.setdefault(weight.data_ptr(), []).append(layer)
    for layers in sharing.values():
        for layer in layers if len(layers) > 1 else ():
            if hasattr(layer, "cpu_linear"):
                method: Any = layer.quant_method
                method.process_weights_after_loading(layer)


def as_torch(arrays: Mapping[str, Array]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield arrays as tensors that share their memory; bfloat16 comes as uint16."""
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        yield name, tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def _mapped(path: str, num_bytes: int) -> mmap.mmap:
    """Map the room: private, so that nothing here can change what others read."""
    file = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(file, num_bytes, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)
