"""Decode: a pool of threads, and what its backlog means for the next one in line.

On the host, beside a GPU too. A core decodes and resizes some 650 JPEGs of 640×480 a second (jpeg.py), so 16 of them
feed ten thousand images a second to a device that runs ResNet-50 on fewer. Where cores are few, the threads can let a
GPU do most of it: see gpu_jpeg.py, which also says what that costs.

    event loop               lock               threads
    read(picture) ──────→  ┌──────┐  ←────── a turn for each picture: read whoever is first then
    cancelled ──────────→  │ Line │
    ready_at(urgency) ──→  └──────┘

Pictures are read in the order that the scheduler would run them in: by priority class, then deadline, then arrival.
One that memory is short of at the moment has its turn again when there is enough, see `budget.py`; that goes before
others' turns, for it has waited for one already.
"""

import asyncio
import contextlib
import math
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from regard_server.budget import MemoryBudget, ShortOfMemoryError
from regard_server.line import Line, Place

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
        memory: what they may take, all together; given to those who read them, too.
    """

    def __init__(self, threads: int, clock: Callable[[], float], memory: MemoryBudget) -> None:
        self._threads = threads
        self._clock = clock
        self._memory = memory
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # A coroutine that is collected as garbage while this is held leaves the line.
        self._lock = memory.lock
        self._line: Line[_Reading] = Line()
        self._reading = 0  # pictures that a thread is at, whoever has left meanwhile
        self._mean_s = 0.0
        self._closed = False

    def ready_at(self, count: int, *, priority: int = 0, deadline: float = math.inf) -> float:
        """Return when `count` more pictures would be read, judging by the recent ones and by who goes before them.

        Those that wait for memory are not before them, as they keep no thread from its work; nor does the time that
        they wait count as what it takes to read one. A large picture may itself be late where this says that it is not.
        """
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
                if not self._line.leave(place) and self._memory.leave(place):
                    self._order_turn(loop)  # the next may take less
            raise
        finally:
            del value, place  # likewise, see `_take_turn`

    def close(self) -> None:
        """Read no more; what is being read is finished and thrown away."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            places = self._memory.empty()
            while place := self._line.first():
                self._line.leave(place)
                places.append(place)
        for place in places:
            place[-1][1].cancel()

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read whoever is first, in a thread; nobody, if one of those that turns were ordered for has left."""
        with self._lock:
            if self._memory.in_use and (place := self._memory.next()) is not None:
                self._order_turn(loop)  # for whoever is next there
            elif (place := self._line.first()) is not None:
                self._line.serve(place)
            else:
                return
            self._reading += 1
        read, waiting = place[-1]
        began = self._clock()
        try:
            value = read()
        except ShortOfMemoryError as short:
            del read
            self._put_off(loop, place, short.size)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            del read, place  # when its caller hears of it, nothing is to hold the picture here
            if self._memory.holds():
                _forget_pixels(error)
            self._tell(loop, _fail, waiting, error)
        else:
            del read, place
            self._tell(loop, self._give, waiting, value, self._clock() - began)
        finally:
            del waiting  # it holds the error, and the error this frame

    def _put_off(self, loop: asyncio.AbstractEventLoop, place: "Place[_Reading]", size: int) -> None:
        """Let a picture wait for memory, unless nobody waits for it any more."""
        waiting = place[-1][1]
        with self._lock:
            if not self._closed and not waiting.done():
                self._memory.put_off(place, size)
                self._end_turn(loop)
                return
        self._tell(loop, waiting.cancel)

    def _tell(self, loop: asyncio.AbstractEventLoop, callback: Callable[..., Any], *arguments: Any) -> None:
        self._end_turn(loop)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(callback, *arguments)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._reading -= 1
            if self._memory.in_use:
                self._memory.give_back()
                self._order_turn(loop)

    def _order_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Order a turn for the first who waits for memory, if there is enough now."""
        if not self._closed and self._memory.first() is not None:
            self._executor.submit(self._take_turn, loop)

    def _give(self, waiting: asyncio.Future[T], value: T, elapsed_s: float) -> None:
        self._mean_s += _NEW * (elapsed_s - self._mean_s)
        if not waiting.done():
            waiting.set_result(value)


def _fail(waiting: asyncio.Future[T], error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)


def _forget_pixels(error: BaseException) -> None:
    """Let go of what was decoded until an error was raised, before its memory counts as given back."""
    for each in (error, error.__cause__, error.__context__):
        if each is not None:
            traceback.clear_frames(each.__traceback__)
