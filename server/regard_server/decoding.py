"""Decode: a pool of threads, and what its backlog means for the next one in line.

On the host, beside a GPU too. A core decodes and resizes some 650 JPEGs of 640×480 a second (jpeg.py), so 16 of them
feed ten thousand images a second to a device that runs ResNet-50 on fewer. Where cores are few, the threads can let a
GPU do most of it: see gpu_jpeg.py, which also says what that costs.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Weight of the newest sample in the running mean.
_NEW = 0.05


class DecodePool:
    """Reads pictures off the event loop; used from the event loop only.

    Args:
        threads: how many pictures are read at a time.
        clock: monotonic seconds.
    """

    def __init__(self, threads: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._backlog = 0
        self._mean_s = 0.0

    def ready_at(self, count: int) -> float:
        """Return when `count` more pictures would be read, judging by the recent ones."""
        rounds = -(-(self._backlog + count) // self._threads)
        return self._clock() + rounds * self._mean_s

    async def read(self, read: Callable[[], T]) -> T:
        """Call `read` in a thread of the pool; raises what it raises."""
        self._backlog += 1
        try:
            value, elapsed_s = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._timed, read
            )
        finally:
            self._backlog -= 1
        self._mean_s += _NEW * (elapsed_s - self._mean_s)
        return value

    def close(self) -> None:
        """Read no more; what is being read is finished and thrown away."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _timed(self, read: Callable[[], T]) -> tuple[T, float]:
        began = self._clock()
        value = read()
        return value, self._clock() - began
