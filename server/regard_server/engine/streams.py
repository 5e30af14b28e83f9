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

    def allocated_bytes(self) -> int:
        """Return what this process holds of the device's memory in tensors; 0 where nobody counts."""

    def peak_bytes(self) -> int:
        """Return the most that it held since this was asked last."""


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

    def allocated_bytes(self) -> int:
        """Count nothing: the memory is the machine's."""
        return 0

    def peak_bytes(self) -> int:
        """Count nothing, likewise."""
        return 0


class CudaStreams:
    """One CUDA device: a stream for copies, one for computing, staging in pinned memory.

    Args:
        device: which.
        memory_fraction: the share of its memory that this process may take; beyond it allocations fail.
    """

    lanes = 2

    def __init__(self, device: torch.device, memory_fraction: float = 1.0) -> None:
        self._device = device
        if memory_fraction < 1.0:
            torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
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

    def allocated_bytes(self) -> int:
        """Ask torch's allocator."""
        return torch.cuda.memory_allocated(self._device)

    def peak_bytes(self) -> int:
        """Ask torch's allocator, and let it begin anew."""
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak


def streams_for(device: torch.device, memory_fraction: float = 1.0) -> Streams:
    """Return the streams of a device."""
    return CudaStreams(device, memory_fraction) if device.type == "cuda" else HostStreams()
