"""The decode pool: what it returns, raises, and says of its backlog."""

import asyncio
import contextlib
import threading
import weakref

import numpy as np
import pytest

from regard_server.budget import MemoryBudget
from regard_server.decoding import DecodePool

PIXELS = np.zeros((2, 2, 3), np.uint8)


class Clock:
    """A clock that each reading moves by a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def pool():
    pool = DecodePool(2, Clock(), MemoryBudget(1))
    yield pool
    pool.close()


class Held:
    """A pool of one thread, which is busy until it is let go."""

    def __init__(self):
        self.pool = DecodePool(1, Clock(), MemoryBudget(1))
        self.order = []
        self._started, self._permit = threading.Event(), threading.Event()

    async def __aenter__(self):
        self.first = asyncio.create_task(self.pool.read(self._wait))
        await asyncio.to_thread(self._started.wait, 10)
        return self

    async def __aexit__(self, *_):
        self.release()
        with contextlib.suppress(asyncio.CancelledError):
            await self.first
        self.pool.close()

    def _wait(self):
        self._started.set()
        self._permit.wait(10)

    def release(self):
        """Let the thread go on to those who wait."""
        self._permit.set()

    async def ask(self, name, count=1, **urgency):
        """Let so many pictures wait; return their tasks."""
        asked = [
            asyncio.create_task(self.pool.read(lambda: self.order.append(name), **urgency))
            for _ in range(count)
        ]
        await asyncio.sleep(0)
        return asked


@pytest.fixture
async def held():
    async with Held() as held:
        yield held


async def test_it_reads_off_the_event_loop(pool):
    """Reading happens in another thread, and its value comes back."""
    seen = []

    def read():
        seen.append(threading.current_thread().name)
        return PIXELS

    assert await pool.read(read) is PIXELS
    assert seen[0].startswith("decode")


async def test_what_reading_raises_is_raised(pool):
    """A picture that cannot be read is its caller's to know."""

    def read():
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        await pool.read(read)
    assert (pool._reading, len(pool._line)) == (0, 0)


async def test_an_empty_new_pool_is_ready_now(pool):
    """Nothing is assumed before anything was read."""
    now = pool._clock.now
    assert pool.ready_at(100) == now + 1.0


async def test_a_backlog_delays_the_next(pool):
    """More pictures than threads take several rounds of the mean time."""
    for _ in range(200):
        await pool.read(lambda: PIXELS)  # each takes a second on this clock
    one, five = (pool.ready_at(count) for count in (1, 5))
    assert five - one == pytest.approx(1.0 + 2 * pool._mean_s)  # the clock's own second, and two rounds more
    assert pool._mean_s == pytest.approx(1.0, abs=0.01)


async def test_whoever_is_most_urgent_is_read_first(held):
    """The class goes before the deadline, and the deadline before arrival."""
    asked = [
        *await held.ask("bulk", priority=1, deadline=1.0),
        *await held.ask("later", deadline=3.0),
        *await held.ask("sooner", deadline=2.0),
        *await held.ask("as soon", deadline=2.0),
    ]
    held.release()
    await asyncio.gather(*asked)
    assert held.order == ["sooner", "as soon", "later", "bulk"]


async def test_bulk_is_read_now_and_then_however_many_are_urgent(held):
    """Every tenth picture is the least urgent class's, as every tenth batch is; the held one was the first."""
    asked = [*await held.ask("bulk", 3, priority=1), *await held.ask("urgent", 40)]
    held.release()
    await asyncio.gather(*asked)
    assert [place + 2 for place, name in enumerate(held.order) if name == "bulk"] == [10, 20, 30]


async def test_only_who_is_read_before_delays_a_newcomer(held):
    """What an interactive caller is told of the backlog does not count bulk, nor those with more time."""
    held.pool._mean_s = 100.0
    await held.ask("bulk", 5, priority=1, deadline=1.0)
    await held.ask("urgent", 2, deadline=9.0)

    def rounds(**urgency):
        return round((held.pool.ready_at(1, **urgency) - held.pool._clock()) / 100)

    assert rounds(deadline=8.0) == 2  # the one that is being read, and himself
    assert rounds(deadline=9.0) == 4
    assert rounds(priority=1, deadline=0.5) == 4
    assert rounds(priority=1, deadline=2.0) == 9


async def test_who_leaves_before_his_turn_is_gone_at_once(held):
    """His picture is not read, its memory is free though the threads are busy, and nobody waits for it."""

    class Reading:
        def __call__(self):
            held.order.append("left")

    reading = Reading()
    memory = weakref.ref(reading)
    leaving = asyncio.create_task(held.pool.read(reading))
    del reading
    staying = await held.ask("stayed")
    leaving.cancel()
    await asyncio.wait([leaving])
    del leaving
    await asyncio.sleep(0)
    assert memory() is None
    assert held.pool._line.ahead(0, 0.0) == 0
    assert len(held.pool._line) == 1
    held.release()
    await asyncio.gather(*staying)
    assert held.order == ["stayed"]


async def test_a_thread_is_busy_until_it_has_read_for_whomever(held):
    """A caller who leaves while his picture is read is counted as long as it takes a thread's time."""
    held.first.cancel()
    await asyncio.wait([held.first])
    assert held.pool._reading == 1
    asked = await held.ask("next")
    held.release()
    await asyncio.gather(*asked)
    assert held.pool._reading == 0


async def test_a_pool_that_closes_reads_for_nobody_else(held):
    """Those who wait are cancelled, and whoever comes is told."""
    asked = await held.ask("waiting", 2)
    held.pool.close()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    with pytest.raises(RuntimeError, match="shutdown"):
        await held.pool.read(lambda: None)
    assert (held.order, len(held.pool._line)) == ([], 0)
