"""Run: a batch of pictures goes through a network on one device.

    works ─→ stack ─→ the chosen runner, or the exact one ─→ arrays ─→ a row for everybody

Everything here happens in the device's one thread: it loads, warms up and runs the networks (loaded in one thread
and run in another, a small ResNet was 1.5 times slower).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from regard_models import ModelBundle
from regard_server.capacity import BatchCapacity
from regard_server.catalog import ServedModel
from regard_server.engine.choice import DEFAULT_BOUNDS, Bounds, choose
from regard_server.engine.mode import FOLDED, Mode, candidates
from regard_server.engine.openvino_runner import OpenVinoRunner
from regard_server.engine.profile import Profile, profile_path
from regard_server.engine.runner import Arrays, Runner
from regard_server.engine.streams import Streams, streams_for
from regard_server.engine.torch_runner import TorchRunner
from regard_server.errors import NonFiniteOutputError, OutOfMemoryError, RegardError
from regard_server.work import BatchKey, Work

Rows = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How networks are run.

    Attributes:
        device: a torch device, or "auto": CUDA where there is one.
        threads: how many CPU threads a network may use.
        max_batch: the largest batch that `run` will see.
        engine: "auto", or the one to use.
        dtype: "auto", or the one to use.
        bounds: how close to float32 embeddings must stay where the choice is automatic.
        invariant: whether an image's bits must not depend on its batchmates: each then runs alone.
        cache: folder of profiles and traced graphs; None: nothing is kept.
    """

    device: str = "cpu"
    threads: int = 1
    max_batch: int = 32
    engine: str = "eager"
    dtype: str = "float32"
    bounds: Bounds = DEFAULT_BOUNDS
    invariant: bool = False
    cache: Path | None = None


@dataclass
class _Loaded:
    """A network, and who runs it: the chosen runner, and for what that one does not cover the exact one."""

    bundle: ModelBundle
    served: ServedModel
    runner: Runner
    device: torch.device
    streams: Streams

    @cached_property
    def exact(self) -> Runner:
        if isinstance(self.runner, TorchRunner) and self.served.compute_dtype == "float32":
            return self.runner
        return TorchRunner(
            self.bundle.model, self.bundle.preprocessing, FOLDED, self.device, streams=self.streams
        )

    def runner_for(self, key: BatchKey, outputs: Sequence[str]) -> Runner:
        fits = key.form == "pixels" and self.runner.covers(key, outputs)
        return self.runner if fits else self.exact


class Engine:
    """The networks of one device.

    Args:
        options: how networks are run.
        logger: where choices, and batches that are split for want of memory, are logged.
        capacity: told of batches that memory did or did not hold.
    """

    def __init__(
        self, options: EngineOptions, logger: logging.Logger, capacity: BatchCapacity | None = None
    ) -> None:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(found if options.device == "auto" else options.device)
        self._options = options
        self._logger = logger
        self._capacity = capacity or BatchCapacity(options.max_batch)
        self._streams = streams_for(self._device)
        self._loaded: dict[str, _Loaded] = {}

    @property
    def lanes(self) -> int:
        """How many threads may call `run` at a time, to copy one batch while another computes."""
        return self._streams.lanes

    def load(self, bundle: ModelBundle) -> ServedModel:
        """Put a network on the device, in the mode that suits it, and return its description.

        Raises:
            ValueError: no mode fits the options on this machine.
        """
        torch.set_num_threads(self._options.threads)
        mode = self.profile(bundle).chosen
        invariant = ", invariant" if self._options.invariant else ""
        served = ServedModel(
            name=bundle.name,
            weights=bundle.weights,
            weights_sha256=bundle.weights_sha256,
            trained=bundle.trained,
            architecture=bundle.architecture,
            preprocessing=bundle.preprocessing,
            outputs=bundle.model.outputs,
            parameters=bundle.parameters,
            min_side=bundle.min_side,
            compute_dtype=mode.dtype,
            engine=f"{mode.engine}{invariant}",
            device=str(self._device),
        )
        self._loaded[bundle.name] = _Loaded(
            bundle, served, self._build(bundle, mode), self._device, self._streams
        )
        return served

    def profile(self, bundle: ModelBundle, *, measure: bool = False) -> Profile:
        """Return the mode of a network: the only one there is, the one of the saved profile, or a measured one.

        Args:
            bundle: the network.
            measure: whether to measure even where a profile was saved, or there is no choice.

        Raises:
            ValueError: no mode fits the options on this machine.
        """
        options = self._options
        modes = candidates(self._device.type, engine=options.engine, dtype=options.dtype)
        if not modes:
            raise ValueError(
                f"engine {options.engine!r} in {options.dtype} cannot run on {self._device} here; "
                "is the package that it needs installed?"
            )
        if len(modes) == 1 and not measure:
            return Profile(modes[0], ())
        path: Path | None = None
        if options.cache:
            path = profile_path(options.cache, bundle, device=str(self._device), threads=options.threads)
        if path and not measure and (saved := Profile.load(path)) and saved.chosen in modes:
            return saved
        found = choose(
            bundle,
            modes,
            lambda mode: self._build(bundle, mode),
            max_batch=options.max_batch,
            bounds=options.bounds,
            logger=self._logger,
        )
        if path:
            try:
                found.save(path)
            except OSError as error:
                self._logger.warning("the profile cannot be kept: %s", error)
        return found

    def warm_up(self) -> list[tuple[BatchKey, int, float]]:
        """Run every network at a few batch sizes; return (kind of batch, size, seconds) of the second run of each."""
        costs = []
        for name, loaded in self._loaded.items():
            prepared = loaded.served.preprocessing
            key = BatchKey(name, "pixels", prepared.height, prepared.width, "pooled")
            blank = Work(np.zeros((prepared.height, prepared.width, 3), np.uint8), ("embedding",))
            for size in _warm_sizes(self._options.max_batch):
                seconds = 0.0
                for _ in range(2):
                    began = time.perf_counter()
                    self.run(key, [blank] * size)
                    seconds = time.perf_counter() - began
                costs.append((key, size, seconds))
        return costs

    def run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows | RegardError]:
        """Return every image's outputs by name, or the error of an image that has none.

        A batch that the device's memory does not hold is split until it does.
        """
        if self._options.invariant and len(batch) > 1:
            return [row for work in batch for row in self.run(key, [work])]
        try:
            rows = self._run(key, batch)
        except torch.OutOfMemoryError as error:
            self._capacity.exhausted(key, len(batch))
            if len(batch) == 1:
                return [
                    OutOfMemoryError(f"the image does not fit into the memory of {self._device}: {error}")
                ]
        else:
            self._capacity.fitted(key, len(batch))
            return rows
        half = len(batch) // 2
        self._logger.warning("out of memory at a batch of %d; running %d and the rest", len(batch), half)
        return [*self.run(key, batch[:half]), *self.run(key, batch[half:])]

    def _run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows | RegardError]:
        pictures = np.stack([work.picture for work in batch])
        wanted = list(dict.fromkeys(name for work in batch for name in work.outputs))
        runner = self._loaded[key.model].runner_for(key, wanted)
        return _split(runner.run(key, pictures, wanted), batch)

    def _build(self, bundle: ModelBundle, mode: Mode) -> Runner:
        if mode.engine == "openvino":
            return OpenVinoRunner(
                bundle,
                mode,
                threads=self._options.threads,
                max_batch=self._options.max_batch,
                cache=self._options.cache,
                logger=self._logger,
            )
        sizes = _warm_sizes(self._options.max_batch)
        return TorchRunner(
            bundle.model,
            bundle.preprocessing,
            mode,
            self._device,
            streams=self._streams,
            sizes=sizes,
        )


def _warm_sizes(max_batch: int) -> list[int]:
    """Return 1, 2, 4, … up to the largest batch, and that one."""
    return sorted({min(2**power, max_batch) for power in range(max_batch.bit_length() + 1)})


def _split(outputs: Arrays, batch: Sequence[Work]) -> list[Rows | RegardError]:
    """Give every image its rows of the outputs it asked for; NaN and infinity are an error, never a vector."""
    finite = {name: _are_finite(values) for name, values in outputs.items()}
    rows: list[Rows | RegardError] = []
    for index, work in enumerate(batch):
        broken = [name for name in work.outputs if not finite[name][index]]
        if broken:
            names = ", ".join(broken)
            rows.append(NonFiniteOutputError(f"the network gave NaN or infinity in {names} for this image"))
        else:
            rows.append({name: outputs[name][index] for name in work.outputs})
    return rows


def _are_finite(values: npt.NDArray[np.float32]) -> list[bool]:
    """Tell for every image whether all its values are finite."""
    finite: npt.NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1)
    return [bool(row.all()) for row in finite]
