"""Getting pictures onto a device and features off it, beside the computing.

    lane A   stack ▒ upload ▒ ─→ ████ compute ████ ─→ ▒ download ▒ ─→ rows, and stack anew
    lane B                stack ▒ upload ▒ ─→         ████ compute ████ ─→ ▒ download ▒ ─→ rows

Two lanes (threads) share a CUDA device. Uploads, computing and downloads have a stream each, and an arrow is an event:
what follows waits for this batch's step alone. On the CPU there is nothing to overlap: the same calls do their work at
once.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regard_server.engine.runner import Arrays


class Uploaded(NamedTuple):
    """What is on its way to a device, and the event of its arrival; None: it is there."""

    batch: Tensor
    arrival: Any = None


class Streams(Protocol):
    """What a runner needs of a device; may be used by several lanes at once."""

    lanes: int

    @property
    def join(self) -> Callable[[Sequence[Any]], Any] | None:
        """Puts pictures one after another into memory that `upload` is quickest from; None: any is as good.

        It holds them until the lane's next batch.
        """

    def upload(self, array: npt.NDArray[Any]) -> Uploaded:
        """Begin to copy an array to the device."""

    def computing(self, uploaded: Uploaded) -> AbstractContextManager[object]:
        """Return a context in which operations follow an upload; one batch at a time is in it."""

    def download(self, tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
        """Begin to copy results to the host, within `computing`; what is returned waits for them."""

    def allocated_bytes(self) -> int:
        """Return what this process holds of the device's memory in tensors; 0 where nobody counts."""

    def peak_bytes(self) -> int:
        """Return the most that it held since this was asked last."""


class HostStreams:
    """The CPU: everything is there already."""

    lanes = 1
    join: Callable[[Sequence[Any]], Any] | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def upload(self, array: npt.NDArray[Any]) -> Uploaded:
        """Return the array's memory as a tensor."""
        return Uploaded(torch.from_numpy(array))

    def computing(self, uploaded: Uploaded) -> AbstractContextManager[object]:  # noqa: ARG002 - it is there
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


class _Staging(threading.local):
    """A lane's pinned memory: a batch is stacked in it, and stays until it has been copied to the device.

    One for each of two lanes is enough for two batches in flight: a lane stacks the next one when it has the rows of
    the last. If that failed, its copy may go on still.
    """

    memory: Any = None
    arrival: Any = None

    def room(self, size: int) -> memoryview:
        """Return room for so many bytes, when nothing is copied from there any more."""
        if self.arrival is not None:
            self.arrival.synchronize()
        if self.memory is None or len(self.memory) < size:
            self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return memoryview(self.memory)[:size]


class CudaStreams:
    """One CUDA device.

    Args:
        device: which.
        memory_fraction: the share of its memory that this process may take; beyond it allocations fail.
    """

    lanes = 2

    def __init__(self, device: torch.device, memory_fraction: float = 1.0) -> None:
        self._device = device
        if memory_fraction < 1.0:
            torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
        self._uploads: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own gap
        self._compute: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._downloads: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._staging = _Staging()
        self._lock = threading.Lock()

    def join(self, pictures: Sequence[Any]) -> memoryview:
        """Put pictures one after another into the lane's pinned memory."""
        views = [memoryview(picture).cast("B") for picture in pictures]
        room = self._staging.room(sum([view.nbytes for view in views]))
        start = 0
        for view in views:
            room[start : start + view.nbytes] = view
            start += view.nbytes
        return room

    def upload(self, array: npt.NDArray[Any]) -> Uploaded:
        """Copy beside the computing, if the array is in pinned memory."""
        with torch.cuda.stream(self._uploads):
            batch = torch.from_numpy(array).to(self._device, non_blocking=True)
        batch.record_stream(self._compute)  # its memory is not to be reused before the computing is over
        self._staging.arrival = self._uploads.record_event()
        return Uploaded(batch, self._staging.arrival)

    @contextmanager
    def computing(self, uploaded: Uploaded) -> Iterator[None]:
        """Queue operations behind an upload; batches are queued whole, one after another."""
        with self._lock, torch.cuda.stream(self._compute):
            self._compute.wait_event(uploaded.arrival)
            yield

    def download(self, tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
        """Copy to pinned memory beside the next batch's computing, and wait for that copy alone."""
        found = {name: values.float() for name, values in tensors.items()}
        self._downloads.wait_event(self._compute.record_event())
        staged: dict[str, Tensor] = {}
        with torch.cuda.stream(self._downloads):
            for name, values in found.items():
                values.record_stream(self._downloads)
                # Pinned memory that is freed torch keeps, and gives out again.
                staged[name] = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
                staged[name].copy_(values, non_blocking=True)
        done = self._downloads.record_event()

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
