"""Decode: a pool of threads, and what its backlog means for the next one in line.

On the host, beside a GPU too. A core decodes and resizes some 650 JPEGs of 640×480 a second (jpeg.py), so 16 of them
feed ten thousand images a second to a device that runs ResNet-50 on fewer. Where cores are few, the threads can let a
GPU do most of it: see gpu_jpeg.py, which also says what that costs.

    event loop               lock               threads
    read(picture) ──────→  ┌──────┐  ←────── a turn for each picture: read whoever is first then
    cancelled ──────────→  │ Line │
    ready_at(urgency) ──→  └──────┘

Pictures are read in the order that the scheduler would run them in: by priority class, then deadline, then arrival.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from regard_server.line import Line

T = TypeVar("T")

# Weight of the newest sample in the running mean.
_NEW = 0.05


_Reading = tuple[Callable[[], Any], asyncio.Future[Any]]
"""What reads a picture, and who waits for it."""


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
        # A coroutine that is collected as garbage while this is held leaves the line.
        self._lock = threading.RLock()
        self._line: Line[_Reading] = Line()
        self._reading = 0  # pictures that a thread is at, whoever has left meanwhile
        self._mean_s = 0.0

    def ready_at(self, count: int, *, priority: int = 0, deadline: float = math.inf) -> float:
        """Return when `count` more pictures would be read, judging by the recent ones and by who goes before them."""
        with self._lock:
            ahead = self._reading + self._line.ahead(priority, deadline)
        rounds = -(-(ahead + count) // self._threads)
        return self._clock() + rounds * self._mean_s

    async def read(self, read: Callable[[], T], *, priority: int = 0, deadline: float = math.inf) -> T:
        """Call `read` in a thread of the pool when it is its turn; raises what it raises.

        It is not called any more once the caller has left, unless it has been already.
        """
        loop = asyncio.get_running_loop()
        value: asyncio.Future[T] = loop.create_future()
        with self._lock:
            place = self._line.join(priority, deadline, (read, value))
        try:
            self._executor.submit(self._take_turn, loop)
            return await value
        except BaseException:
            with self._lock:
                self._line.leave(place)
            raise
        finally:
            del value, place  # likewise, see `_take_turn`

    def close(self) -> None:
        """Read no more; what is being read is finished and thrown away."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            while place := self._line.first():
                self._line.leave(place)
                place[-1][1].cancel()

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read whoever is first, in a thread; nobody, if one of those that turns were ordered for has left."""
        with self._lock:
            place = self._line.first()
            if place is None:
                return
            self._line.serve(place)
            self._reading += 1
        read, waiting = place[-1]
        del place
        began = self._clock()
        try:
            value = read()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            del read  # when its caller hears of it, nothing is to hold the picture here
            self._tell(loop, _fail, waiting, error)
        else:
            del read
            self._tell(loop, self._give, waiting, value, self._clock() - began)
        finally:
            del waiting  # it holds the error, and the error this frame

    def _tell(self, loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            self._reading -= 1
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(callback, *arguments)

    def _give(self, waiting: asyncio.Future[T], value: T, elapsed_s: float) -> None:
        self._mean_s += _NEW * (elapsed_s - self._mean_s)
        if not waiting.done():
            waiting.set_result(value)


def _fail(waiting: asyncio.Future[T], error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)
