"""Getting pictures onto a device and features off it, beside the computing.

    copy stream       ▒▒ upload B ▒▒        ▒▒ upload C ▒▒
    compute stream          ████ A ████ ████ B ████ ████ C ████
    host              wait for A ────────┘

Two lanes (threads) share a CUDA device, so that one batch computes while the next is copied. On the CPU there is
nothing to overlap: the same calls do their work at once.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regard_server.engine.runner import Arrays


class Streams(Protocol):
    """What a runner needs of a device; may be used by several lanes at once."""

    lanes: int

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """Begin to copy an array to the device."""

    def computing(self) -> Any:
        """Return a context in which operations follow what was uploaded; one lane at a time is in it."""

    def download(self, tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
        """Begin to copy results to the host, within `computing`; what is returned waits for them."""


class HostStreams:
    """The CPU: everything is there already."""

    lanes = 1

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """Return the array's memory as a tensor."""
        return torch.from_numpy(array)

    def computing(self) -> threading.Lock:
        """Let one lane compute at a time."""
        return self._lock

    def download(self, tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
        """Return the tensors' memory as arrays."""
        arrays = {name: values.float().numpy() for name, values in tensors.items()}
        return lambda: arrays


class CudaStreams:
    """One CUDA device: a stream for copies, one for computing, staging in pinned memory."""

    lanes = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own gap
        self._compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """Copy through pinned memory, so that the copy runs beside the computing."""
        with torch.cuda.stream(self._copies):
            uploaded = torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)
        uploaded.record_stream(self._compute)  # its memory is not to be reused before the computing is over
        return uploaded

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Queue operations behind the uploads so far; batches are queued whole, one after another."""
        with self._lock, torch.cuda.stream(self._compute):
            self._compute.wait_stream(self._copies)
            yield

    def download(self, tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
        """Copy to pinned memory behind the computing, and wait for that copy alone."""
        staged = {
            name: torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
            for name, values in tensors.items()
        }
        for name, values in tensors.items():
            staged[name].copy_(values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._compute)

        def wait() -> Arrays:
            done.synchronize()
            # Out of the pinned memory, which is scarce: callers may keep their rows for long.
            return {name: np.array(values.numpy()) for name, values in staged.items()}

        return wait


def streams_for(device: torch.device) -> Streams:
    """Return the streams of a device."""
    return CudaStreams(device) if device.type == "cuda" else HostStreams()
