"""Run: a batch of pictures goes through a network on one device.

    uint8 (B, H, W, 3) ─→ device ─→ (x / 255 - mean) / std ─→ network ─→ outputs asked for ─→ rows

Only this file and the models know torch. Everything here happens in the device's one thread: it loads, warms
up and runs the networks (loaded in one thread and run in another, a small ResNet was 1.5 times slower).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regard_models import ModelBundle
from regard_server.catalog import ServedModel
from regard_server.errors import NonFiniteOutputError, OutOfMemoryError, RegardError
from regard_server.work import BatchKey, Work

Rows = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Loaded:
    network: Any  # a backbone of regard_models: `extract(x, outputs)`
    served: ServedModel
    mean: Tensor  # (1, 3, 1, 1), in the units of bytes
    std: Tensor


class Engine:
    """The networks of one device.

    Args:
        device: a torch device, or "auto": CUDA where there is one.
        threads: how many CPU threads a network may use.
        max_batch: the largest batch that `run` will see.
        logger: where a batch that is split for want of memory is logged.
    """

    def __init__(self, *, device: str, threads: int, max_batch: int, logger: logging.Logger) -> None:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._device = torch.device(chosen)
        self._threads = threads
        self._max_batch = max_batch
        self._logger = logger
        self._loaded: dict[str, _Loaded] = {}

    def load(self, bundle: ModelBundle) -> ServedModel:
        """Put a network on the device and return its description."""
        torch.set_num_threads(self._threads)
        prepared = bundle.preprocessing
        served = ServedModel(
            name=bundle.name,
            weights=bundle.weights,
            weights_sha256=bundle.weights_sha256,
            trained=bundle.trained,
            architecture=bundle.architecture,
            preprocessing=prepared,
            outputs=cast("Any", bundle.model).outputs,
            parameters=bundle.parameters,
            min_side=bundle.min_side,
            compute_dtype="float32",
            engine="eager",
            device=str(self._device),
        )
        self._loaded[bundle.name] = _Loaded(
            network=bundle.model.to(self._device),
            served=served,
            mean=self._per_channel(prepared.mean),
            std=self._per_channel(prepared.std),
        )
        return served

    def warm_up(self) -> None:
        """Run every network once at the smallest and the largest batch, so that no caller pays for it."""
        for name, loaded in self._loaded.items():
            prepared = loaded.served.preprocessing
            key = BatchKey(name, "pixels", prepared.height, prepared.width, "pooled")
            blank = Work(np.zeros((prepared.height, prepared.width, 3), np.uint8), ("embedding",))
            for size in {1, self._max_batch}:
                self.run(key, [blank] * size)

    def run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows | RegardError]:
        """Return every image's outputs by name, or the error of an image that has none.

        A batch that the device's memory does not hold is split until it does.
        """
        try:
            with torch.inference_mode():
                return self._run(key, batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                return [
                    OutOfMemoryError(f"the image does not fit into the memory of {self._device}: {error}")
                ]
        half = len(batch) // 2
        self._logger.warning("out of memory at a batch of %d; running %d and the rest", len(batch), half)
        return [*self.run(key, batch[:half]), *self.run(key, batch[half:])]

    def _run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows | RegardError]:
        loaded = self._loaded[key.model]
        pictures = torch.from_numpy(np.stack([work.picture for work in batch])).to(self._device)
        if key.form == "pixels":
            pictures = (pictures.permute(0, 3, 1, 2).float() - loaded.mean) / loaded.std
        wanted = list(dict.fromkeys(name for work in batch for name in work.outputs))
        outputs: Mapping[str, Tensor] = loaded.network.extract(pictures, wanted)
        return _split(outputs, batch)

    def _per_channel(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device).view(1, 3, 1, 1) * 255


def _split(outputs: Mapping[str, Tensor], batch: Sequence[Work]) -> list[Rows | RegardError]:
    """Give every image its rows of the outputs it asked for; NaN and infinity are an error, never a vector."""
    finite = {name: torch.isfinite(output).flatten(1).all(dim=1).tolist() for name, output in outputs.items()}
    arrays = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    rows: list[Rows | RegardError] = []
    for index, work in enumerate(batch):
        broken = [name for name in work.outputs if not finite[name][index]]
        if broken:
            names = ", ".join(broken)
            rows.append(NonFiniteOutputError(f"the network gave NaN or infinity in {names} for this image"))
        else:
            rows.append({name: arrays[name][index] for name in work.outputs})
    return rows
