"""Which threads give way to others on the cores."""

import asyncio
import errno
import logging
import os
import sys
import threading
import time
from functools import partial

import pytest

from regard_server.batcher import Batcher
from regard_server.cost import CostModel
from regard_server.device import DeviceThread
from regard_server.engine import Engine, EngineOptions
from regard_server.hold import Hold
from regard_server.precedence import give_way
from regard_server.scheduler import Scheduler

HERE = 0  # the calling thread
# Elsewhere nobody gives way.
BY = 7 if sys.platform == "linux" else 0
MOST = 19


def niceness():
    """Return the calling thread's."""
    return os.getpriority(os.PRIO_PROCESS, HERE)


def nicer(by):
    return min(MOST, niceness() + by)


def in_a_thread(function):
    """Return what a function returns in a thread of its own."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(function()))
    thread.start()
    thread.join()
    return returned[0]


def test_a_thread_gives_way_and_so_do_those_that_it_starts():
    """The thread that asks for it is nicer, a thread that it starts is as nice, and everybody else is as before."""
    before = niceness()

    def work():
        give_way(BY)
        return niceness(), in_a_thread(niceness)

    assert in_a_thread(work) == (nicer(BY), nicer(BY))
    assert niceness() == before


def test_nobody_gives_way_by_nothing():
    """By 0 nothing changes."""

    def work():
        give_way(0)
        return niceness()

    assert in_a_thread(work) == niceness()


@pytest.fixture
async def loaded_at():
    """Run a device's thread until it loads its network; return how nice it is then."""
    logger, costs = logging.getLogger("test"), CostModel()
    scheduler = Scheduler(lambda _: 1, costs, Hold(0.0, costs))
    batcher = Batcher(scheduler, lambda _: None, clock=time.monotonic, logger=logger)
    loop = asyncio.get_running_loop()
    found = loop.create_future()

    class Told(Engine):
        def load(self, bundle):
            loop.call_soon_threadsafe(found.set_result, niceness())
            return super().load(bundle)

    async def load():
        thread = DeviceThread(
            engine=partial(Told, EngineOptions(), logger),
            sources=[("tiny", "resnet_tiny")],
            seed=0,
            batcher=batcher,
            on_ready=lambda _models: None,
            on_failure=lambda error: loop.call_soon_threadsafe(found.set_exception, error),
            logger=logger,
            nicer=BY,
        )
        thread.start()
        nice = await found
        batcher.close()
        assert await asyncio.to_thread(thread.join, 10.0)
        return nice

    return load


async def test_a_network_on_the_cpu_gives_way(loaded_at):
    """The thread of a device that is the CPU is nicer by as much as it was told before it loads anything."""
    assert await loaded_at() == nicer(BY)


async def test_a_network_that_may_not_give_way_is_served_all_the_same(loaded_at, monkeypatch, caplog):
    """Where a sandbox forbids it, the log says so, and the network is as urgent as everything else."""
    before = niceness()

    def forbid(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbid)
    assert await loaded_at() == before
    assert ("as urgent as those who answer: Operation not permitted" in caplog.text) == bool(BY)
