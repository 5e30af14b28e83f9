"""Networks run by OpenVINO on the CPU: embeddings of byte pictures, several times faster than torch.

One graph serves every batch size up to the largest: on the machines that were measured a dynamic batch axis was
as fast as fixed ones, so nothing is padded. Traced graphs are kept: see graphs.py.

    few pictures     all threads on each layer, which wait for each other at its end
    many of a light  blocks ▒▒▒▒▒▒▒▒ ▒▒▒▒▒▒▒▒ ▒▒▒, one after another, all threads on each layer
    network
    many of another  pieces ▒▒▒▒ ▒▒▒▒ ▒▒▒▒     each thread takes the next piece, and they wait
    that is slow            ▒▒▒▒ ▒▒▒▒ ▒▒▒▒     for each other once, at the end of the batch

A decoder or a caller who takes a core for a moment holds up every thread at the end of a layer, but one piece alone.
ResNet-50, 32 pictures, two cores: 0 to 5 % more pictures a second on a quiet machine, 13 % beside a process that takes
a third of a core. A network that is done with a picture in a millisecond gains nothing by it, and a light one that
takes longer, on a processor without bfloat16, as much as it loses in memory (55 MB).

OpenVINO keeps what it made for a batch size for as long as the process lives: 4 MB of each size that comes, of the
default network, and 20 ms of the first batch of it. So batches of light networks are run in blocks that are about as
quick as the whole (32 pictures of 160×160: 2 % slower), by a graph of that one size, and what is left of them has few
sizes. A graph that serves several takes half a millisecond to change between them, which a block is spared. "Starting"
in the README of tests/benchmarks has the figures.
"""

import importlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regard_models import ModelBundle
from regard_models.folding import fold
from regard_server.engine.graphs import DamagedGraphError, TracedGraphs
from regard_server.engine.mode import Mode
from regard_server.engine.runner import Arrays
from regard_server.engine.torch_runner import Normalised
from regard_server.work import BatchKey

_PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_SLOW_S = 0.008
"""What a picture takes one thread in a network whose batches are worth dividing."""
_PIECES = 4
"""Of a batch for each thread, so that the last are over at about the same time."""
_LARGEST_PIECE = 4
_DIVIDED_PIXELS = 128 * 128
"""In a picture, at least, for batches to be divided. ResNet-18 at 64×64 takes 5.3 to 6.0 ms of a core for a picture in
whole batches of 16 to 32, and 6.5 to 7.8 in pieces, where there is no bfloat16. It seems that weights, which are read
anew for every piece, are a large part of what a network costs that sees small pictures."""
_BLOCK_PIXELS = 4 * 160 * 160
"""In a block, for each thread. By two, 32 pictures take 14 % longer in blocks of 8 by ResNet-18 at 64×64, and 7 % in
blocks of 4 by ea_mini. More than two were not measured."""
_SMALLEST_BLOCK = 2
# torch traces one network at a time; and what one device's thread has traced, the next one's reads.
_TRACING = threading.Lock()
_LIGHT = 4_000_000
"""Parameters of a network that is run in blocks, at most: their graph has weights of its own. Of ResNet-50 they would
take 50 MB more, and all sizes that come take 40."""


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report its use over the network from forked processes.

    It has a stub of its own for where that package is not installed; this makes sure that it takes it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: "not to be imported"
    return importlib.import_module("openvino")


class OpenVinoRunner:
    """The embedding of byte pictures at the model's own input size.

    Args:
        bundle: the network and its preprocessing.
        mode: the dtype is a hint that the processor must support; it is checked by its result, like every mode.
        threads: how many it may use.
        max_batch: the largest batch.
        cache: folder for traced graphs; None: trace each time.
        logger: where a cache that cannot be written is reported, and how batches are run.
        alone_s: what one picture takes, where that was measured; None: it is timed now.
    """

    weights_bytes = 0  # the memory is the machine's

    def __init__(
        self,
        bundle: ModelBundle,
        mode: Mode,
        *,
        threads: int,
        max_batch: int,
        cache: Path | None,
        logger: logging.Logger,
        alone_s: float | None = None,
    ) -> None:
        openvino = import_openvino()
        prepared = bundle.preprocessing
        self._size = (prepared.height, prepared.width)
        self._logger = logger
        core = openvino.Core()
        with _TRACING:
            graph = self._graph(openvino, core, bundle, cache)
        graph.reshape([openvino.Dimension(1, max_batch), *self._size, 3])
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[mode.dtype],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with the decoders and whoever else is there
        }
        whole = core.compile_model(graph, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
        self._request = whole.create_infer_request()
        self._block, self._full = max_batch, self._request  # one block, unless smaller ones pay
        block = max(_SMALLEST_BLOCK, threads * _BLOCK_PIXELS // (prepared.height * prepared.width))
        self._threads = threads
        self._queue: Any = None
        light = bundle.parameters <= _LIGHT
        divisible = (
            threads > 1 and self._piece(max_batch) > 1 and prepared.height * prepared.width >= _DIVIDED_PIXELS
        )
        if light and block < max_batch:
            graph.reshape([block, *self._size, 3])
            full = core.compile_model(graph, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
            self._block, self._full = block, full.create_infer_request()
        elif not light and divisible and (alone_s or self._seconds()) * threads > _SLOW_S:
            logger.info("%s is slow here: its large batches are divided among the threads", bundle.name)
            divided = core.compile_model(graph, "CPU", options | {"NUM_STREAMS": threads})
            self._queue = openvino.AsyncInferQueue(divided, 2 * threads)  # one begins as another ends
            self._queue.set_callback(_keep)

    def covers(self, key: BatchKey, output: str) -> bool:
        """Tell whether these are embeddings of pictures at the model's input size."""
        return key.form == "pixels" and (key.height, key.width) == self._size and output == "embedding"

    def run(self, key: BatchKey, pictures: npt.NDArray[Any], outputs: Sequence[str]) -> Arrays:  # noqa: ARG002
        """Return the embeddings of a batch."""
        if self.pieces(len(pictures)) > 1:
            return {"embedding": self._divided(pictures)}
        return {"embedding": self._in_turn(pictures)}

    def pieces(self, pictures: int) -> int:
        """Return how many pieces a batch is run in."""
        size = self._piece(pictures)
        return -(-pictures // size) if self._queue is not None and size > 1 else 1  # pieces of one are slower

    def blocks(self, pictures: int) -> list[int]:
        """Return the sizes of what a batch that is not divided among the threads is run in."""
        full, rest = divmod(pictures, self._block)
        return [self._block] * full + [rest] * (rest > 0)

    def _in_turn(self, pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        found: list[npt.NDArray[np.float32]] = []
        start = 0
        for size in self.blocks(len(pictures)):
            request = self._full if size == self._block else self._request
            outputs = request.infer([pictures[start : start + size]], share_inputs=True)
            found.append(np.array(outputs[0], np.float32))  # the request reuses its buffer
            start += size
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _piece(self, pictures: int) -> int:
        return min(pictures // (_PIECES * self._threads), _LARGEST_PIECE)

    def _divided(self, pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = self._piece(len(pictures))
        parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        found: dict[int, npt.NDArray[np.float32]] = {}
        try:
            for place, part in enumerate(parts):
                self._queue.start_async([part], (found, place), share_inputs=True)
        finally:
            self._queue.wait_all()
        return np.concatenate([found[place] for place in range(len(parts))])

    def _seconds(self) -> float:
        """Return what one picture takes, all threads on it."""
        picture = np.zeros((1, *self._size, 3), np.uint8)
        times: list[float] = []
        for _ in range(3):  # the first makes the kernels
            began = time.perf_counter()
            self._request.infer([picture], share_inputs=True)
            times.append(time.perf_counter() - began)
        return min(times)

    def _graph(self, openvino: Any, core: Any, bundle: ModelBundle, cache: Path | None) -> Any:
        """Return the traced graph, from the cache if it is there."""
        made_from = (
            openvino.__version__,
            bundle.architecture,
            bundle.preprocessing.to_json(),
            bundle.weights_sha256,
        )
        if cache is None:
            return _trace(bundle, self._size)
        graphs = TracedGraphs(cache)
        try:
            if kept := graphs.find(*made_from):
                return core.read_model(*kept)
        except (DamagedGraphError, OSError) as error:
            self._logger.warning("a graph is traced anew: %s", error)
        graph = _trace(bundle, self._size)
        try:
            kept = graphs.keep(partial(openvino.save_model, graph, compress_to_fp16=False), *made_from)
        except (OSError, RuntimeError) as error:
            self._logger.warning("the traced graph cannot be kept in %s: %s", cache, error)
            return graph
        return core.read_model(*kept)  # as every later start does, to the bit


def _keep(request: Any, told: tuple[dict[int, npt.NDArray[np.float32]], int]) -> None:
    """Take what was found of a piece out of a request, which is about to be used for another."""
    found, place = told
    found[place] = np.array(request.get_output_tensor(0).data, np.float32)


def _trace(bundle: ModelBundle, size: tuple[int, int]) -> Any:
    """Turn the folded network into a graph."""
    from openvino.frontend import FrontEndManager  # noqa: PLC0415 - an optional dependency
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    network = Normalised(fold(bundle.model), bundle.preprocessing, torch.float32).eval()
    example = torch.zeros((2, *size, 3), dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing takes the sizes that the network checks for constants, which they are from here on; and
        # torch.jit.trace, which the decoder calls, calls itself deprecated.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(network, example_input=(example,))
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))
