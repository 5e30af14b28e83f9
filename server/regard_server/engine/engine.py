"""Run: a batch of pictures goes through a network on one device.

    works ─→ stack ─┬─→ the chosen runner ──────────────────────────┬─→ arrays ─→ everybody's rows
                    └─→ the exact one, for what that does not cover ┘

Which of the two gives an output is the same in every batch, whatever is asked beside it, so that a picture has one
embedding.

Everything here happens in the device's one thread: it loads, warms up and runs the networks (loaded in one thread
and run in another, a small ResNet was 1.5 times slower).
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from regard_models import ModelBundle, Preprocessing
from regard_server.capacity import BatchCapacity
from regard_server.catalog import ServedModel
from regard_server.cores import WAIT_POLICY, threads_spin
from regard_server.engine.choice import Choice, find_choice
from regard_server.engine.invariance import check_invariance
from regard_server.engine.memory import is_out_of_memory
from regard_server.engine.mode import FOLDED, Mode
from regard_server.engine.openvino_runner import OpenVinoRunner
from regard_server.engine.options import EngineOptions
from regard_server.engine.profile import Profiles
from regard_server.engine.reading import device_kind
from regard_server.engine.rows import join, split
from regard_server.engine.runner import Runner
from regard_server.engine.streams import Streams, streams_for
from regard_server.engine.torch_runner import TorchRunner
from regard_server.errors import OutOfMemoryError
from regard_server.work import BatchKey, Rows, Work, likeness, stack


@dataclass
class _Loaded:
    """A network, and who runs it: the chosen runner, and for what that one does not cover the exact one."""

    bundle: ModelBundle
    served: ServedModel
    runner: Runner
    device: torch.device
    streams: Streams
    image_bytes: float = 0.0  # what each picture of a usual batch takes, seen at warm-up; 0: nobody counts
    made: Runner | None = None
    building: threading.Lock = field(default_factory=threading.Lock)

    def exact(self) -> Runner:
        """Return the float32 network; made when it is first wanted, since hardly anybody wants it.

        Of the default model it takes 32 MB and 0.2 s, which nobody's start should pay for.
        """
        with self.building:  # by one lane
            if self.made is None:
                self.made = self._make_exact()
            return self.made

    @property
    def compiled(self) -> bool:
        return self.served.engine.startswith("compiled")

    def most(self, key: BatchKey, share_bytes: int) -> int:
        """Return how many pictures of a kind, at least one, a share of the device's memory holds beside the weights.

        Lanes compute one after another on one stream, and so in the same memory.
        """
        if not share_bytes or not self.image_bytes:
            return sys.maxsize
        usual = likeness(_own_key(self.served.name, self.served.preprocessing))
        each = self.image_bytes * likeness(key).weight / usual.weight
        weights = self.runner.weights_bytes
        if self.made is not None and self.made is not self.runner:
            weights += self.made.weights_bytes
        fits = max(1, int((share_bytes - weights) / each))
        return 1 << fits.bit_length() - 1 if self.compiled else fits  # padded, it must not be larger

    def _make_exact(self) -> Runner:
        if isinstance(self.runner, TorchRunner) and self.served.compute_dtype == "float32":
            return self.runner
        return TorchRunner(
            self.bundle.model, self.bundle.preprocessing, FOLDED, self.device, streams=self.streams
        )

    def runners(self, key: BatchKey, outputs: Sequence[str]) -> Iterator[tuple[Runner, Sequence[str]]]:
        """Yield who runs, and what each gives."""
        covered = [name for name in outputs if key.form == "pixels" and self.runner.covers(key, name)]
        if covered:
            yield self.runner, covered
        if len(covered) < len(outputs):
            yield self.exact(), [name for name in outputs if name not in covered]


class Engine:
    """The networks of one device.

    Args:
        options: how networks are run.
        logger: where choices, and batches that are split for want of memory, are logged.
        capacity: told of batches that memory did or did not hold.
        on_padded: told of rows that were computed for nobody, to fill a batch of a fixed size, by model; in the
            engine's threads.
        profiles: what was measured of networks; devices of one kind that share it choose alike.
    """

    def __init__(
        self,
        options: EngineOptions,
        logger: logging.Logger,
        capacity: BatchCapacity | None = None,
        on_padded: Callable[[str, int], object] = lambda _model, _rows: None,
        profiles: Profiles | None = None,
    ) -> None:
        self._on_padded = on_padded
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(found if options.device == "auto" else options.device)
        self._options = options
        self._logger = logger
        self._capacity = capacity or BatchCapacity(options.max_batch)
        self._profiles = profiles or Profiles(options.cache, logger)
        self._streams = streams_for(self._device, options.memory_fraction)
        self._loaded: dict[str, _Loaded] = {}
        # A CUDA graph belongs to the thread that recorded it (https://github.com/pytorch/pytorch/issues/123177), so
        # where there are several lanes one more thread begins what is compiled, and they wait for it and copy.
        self._recorder = ThreadPoolExecutor(1, "graphs") if self._streams.lanes > 1 else None

    @property
    def on_cpu(self) -> bool:
        """Whether networks run on the cores that everything else needs, too."""
        return self._device.type == "cpu"

    @property
    def kind(self) -> str:
        """What the device is; those of one kind choose alike."""
        return device_kind(self._device)

    @property
    def lanes(self) -> int:
        """How many threads may call `run` at a time, to copy one batch while another computes."""
        return self._streams.lanes

    def load(self, bundle: ModelBundle) -> ServedModel:
        """Put a network on the device, in the mode that suits it, and return its description.

        Raises:
            ValueError: no mode fits the options on this machine.
        """
        choice = self.choose(bundle)
        mode = choice.mode
        known = choice.profile.of(mode)
        runner = self._build(bundle, mode, known.alone_s if known else None)
        own = _own_key(bundle.name, bundle.preprocessing)
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
            exact=frozenset(name for name in bundle.model.outputs if not runner.covers(own, name)),
        )
        self._loaded[bundle.name] = _Loaded(bundle, served, runner, self._device, self._streams)
        return served

    def choose(self, bundle: ModelBundle, *, again: bool = False) -> Choice:
        """Return the mode of a network and what is known of all of them; see `find_choice`, which raises ValueError."""
        torch.set_num_threads(self._options.threads)
        return find_choice(
            bundle,
            self._device,
            self._options,
            lambda mode: self._build(bundle, mode),
            profiles=self._profiles,
            logger=self._logger,
            again=again,
        )

    def warm_up(self) -> list[tuple[BatchKey, int, float]]:
        """Run every network at a few batch sizes; return (kind of batch, size, seconds) of the second run of each."""
        if self.on_cpu and self._options.threads > 1 and threads_spin():
            self._logger.warning(
                "OpenMP's threads spin while they wait, which is very slow where another process takes a core: "
                "set %s to PASSIVE before torch is imported, as `regard serve` does, or threads to 1",
                WAIT_POLICY,
            )
        costs = []
        for name, loaded in self._loaded.items():
            prepared = loaded.served.preprocessing
            key = _own_key(name, prepared)
            blank = bytes(prepared.height * prepared.width * 3)
            for size in _warm_sizes(self._options.max_batch):
                if size > loaded.most(key, self._options.max_model_bytes):
                    break
                seconds = took = 0.0
                for _ in range(2):
                    self._streams.peak_bytes()
                    before = self._streams.allocated_bytes()
                    began = time.perf_counter()
                    self.run(key, [Work([blank] * size, ("embedding",))])
                    seconds = time.perf_counter() - began
                    took = self._streams.peak_bytes() - before
                costs.append((key, size, seconds))
                loaded.image_bytes = took / size
            if self._options.invariant:
                check_invariance(self.run, key, self._options.max_batch)
        return costs

    def run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows]:
        """Return everybody's outputs by name, and the errors of images that have none.

        A batch is split where a part of it is all that the network's share of the memory will hold, and one that the
        device's memory did not hold, until it does.
        """
        size = sum([len(work.pictures) for work in batch])
        if self._options.invariant and size > 1:
            return [join([(one, self.run(key, [one])[0]) for one in _singly(work)]) for work in batch]
        most = self._loaded[key.model].most(key, self._options.max_model_bytes)
        if size > most:
            self._capacity.exhausted(key, 2 * most)
            return self._run_halves(key, batch, max(most, size // 2 // most * most))
        try:
            rows = self._run(key, batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._capacity.exhausted(key, size)
            if size == 1:
                full = f"the image does not fit into the memory of {self._device}: {error}"
                return [Rows({}, {0: OutOfMemoryError(full)})]
        else:
            self._capacity.fitted(key, size)
            return rows
        half = size // 2
        self._logger.warning("out of memory at a batch of %d; running %d and the rest", size, half)
        return self._run_halves(key, batch, half)

    def _run_halves(self, key: BatchKey, batch: Sequence[Work], half: int) -> list[Rows]:
        """Run a batch in two: the first so many images, and the rest; whose images are in both gets them together."""
        first: list[Work] = []
        rest = list(batch)
        while half >= len(rest[0].pictures):
            half -= len(rest[0].pictures)
            first.append(rest.pop(0))
        if not half:
            return [*self.run(key, first), *self.run(key, rest)]
        part, rest[0] = rest[0].divide(half)
        *before, cut = self.run(key, [*first, part])
        other, *after = self.run(key, rest)
        return [*before, join([(part, cut), (rest[0], other)]), *after]

    def _run(self, key: BatchKey, batch: Sequence[Work]) -> list[Rows]:
        wanted = list(dict.fromkeys(name for work in batch for name in work.outputs))
        pictures = stack(key, batch, self._streams.join)
        arrays: dict[str, npt.NDArray[np.float32]] = {}
        for runner, outputs in self._loaded[key.model].runners(key, wanted):
            arrays.update(runner.run(key, pictures, outputs))
        return split(arrays, batch)

    def _build(self, bundle: ModelBundle, mode: Mode, alone_s: float | None = None) -> Runner:
        if mode.engine == "openvino":
            return OpenVinoRunner(
                bundle,
                mode,
                threads=self._options.threads,
                max_batch=self._options.max_batch,
                cache=self._options.cache,
                logger=self._logger,
                alone_s=alone_s,
            )
        if mode.engine == "compiled" and self._options.cache:
            # torch's name for it; what was compiled before is read from there. A folder that was named is left alone.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._options.cache / "inductor"))
        sizes = _warm_sizes(self._options.max_batch)
        return TorchRunner(
            bundle.model,
            bundle.preprocessing,
            mode,
            self._device,
            streams=self._streams,
            sizes=sizes,
            recorder=self._recorder,
            on_padded=partial(self._on_padded, bundle.name),
        )


def _own_key(name: str, prepared: Preprocessing) -> BatchKey:
    """Return the kind of batch that nearly everybody rides in: embeddings of pictures at the model's own size."""
    return BatchKey(name, "pixels", prepared.height, prepared.width, "pooled")


def _singly(work: Work) -> list[Work]:
    return [Work([picture], work.outputs) for picture in work.pictures]


def _warm_sizes(max_batch: int) -> list[int]:
    """Return 1, 2, 4, … up to the largest batch, and that one."""
    return sorted({min(2**power, max_batch) for power in range(max_batch.bit_length() + 1)})
