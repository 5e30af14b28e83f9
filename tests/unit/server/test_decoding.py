"""The decode pool: what it returns, raises, and says of its backlog."""

import asyncio
import threading

import numpy as np
import pytest

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
    pool = DecodePool(2, Clock())
    yield pool
    pool.close()


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
    assert pool._backlog == 0


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


async def test_a_caller_who_leaves_is_not_counted(pool):
    """A cancelled read is out of the backlog."""
    started, release = threading.Event(), threading.Event()

    def read():
        started.set()
        release.wait(10)
        return PIXELS

    task = asyncio.create_task(pool.read(read))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool._backlog == 0
    release.set()
