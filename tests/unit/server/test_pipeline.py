"""What a request leaves behind, however it ends: no promise of room, and no memory."""

import asyncio
import gc
import logging
import threading
import weakref
from functools import partial

import numpy as np
import pytest
from served_models import TINY

from regard_server.admission import Admission
from regard_server.batcher import Batcher
from regard_server.budget import MemoryBudget
from regard_server.cost import CostModel
from regard_server.decoding import DecodePool
from regard_server.embeddings import EmbeddingHealth
from regard_server.errors import (
    DeadlineExpiredError,
    OverloadedError,
    RegardError,
    UnavailableError,
    UndecodableImageError,
)
from regard_server.hold import Hold
from regard_server.metrics import Metrics
from regard_server.pipeline import Pipeline
from regard_server.request import Picture, Request
from regard_server.reuse import Reuse
from regard_server.scheduler import Scheduler
from regard_server.straight import settle
from regard_server.work import BatchKey, Rows

LARGE = 300_000
KEY = BatchKey("tiny", "pixels", 4, 4, "pooled")
LOGGER = logging.getLogger("none")


class Reading:
    """Reads a picture, or fails with an error that has a cause; stands for the memory that its request holds."""

    count = 0

    def __init__(self, error=None):
        self.error = error

    def __call__(self):
        Reading.count += 1
        if self.error is not None:
            try:
                int("no number")
            except ValueError as cause:
                raise self.error("no picture") from cause
        return [np.zeros((4, 4, 3), np.uint8)]


class Served:
    """A pipeline whose device comes when it is told to, if at all."""

    way = "_extract"

    def __init__(self, reuse=None):
        self._way = getattr(self, Served.way)
        clock = asyncio.get_running_loop().time
        self.clock = clock
        self.metrics = metrics = Metrics(
            EmbeddingHealth(samples_per_s=0, reference_samples=16, folder=None, logger=LOGGER)
        )
        costs = CostModel()
        scheduler = Scheduler(lambda _: 4, costs, Hold(0.0, costs))
        self.batcher = Batcher(scheduler, partial(settle, metrics=metrics), clock=clock, logger=LOGGER)
        self._decoders = DecodePool(1, clock, MemoryBudget(1))
        self._pipeline = Pipeline(
            admission=Admission(max_images=64, max_bytes=1 << 20),
            decoders=self._decoders,
            batcher=self.batcher,
            metrics=metrics,
            clock=clock,
            reuse=reuse,
        )

    def serve(self):
        """Run what waits, and nothing after that."""

        def run(_, batch):
            return [Rows({"embedding": np.zeros((len(work.pictures), 8), np.float32)}, {}) for work in batch]

        self.batcher.close()
        self.batcher.serve(run)

    def counted(self):
        """Return how many pictures came to which end."""
        counts = self.metrics.items.children().items()
        return {outcome: count.value for (_, outcome), count in counts if count.value}

    async def decoded(self):
        """Wait until nothing is to be read before the least urgent."""
        await steps()
        await self._decoders.read(lambda: None, priority=9)
        await steps()

    async def ask(
        self,
        *errors,
        reading=None,
        timeout_s=60.0,
        quick=True,
        content=lambda: (b"",),
        size_bytes=1,
        priority=0,
    ):
        """Ask for a picture for each error, or for none; `reading` is told whose memory to watch."""
        readings = [Reading(error) for error in errors]
        if reading is not None:
            reading.append(weakref.ref(readings[0]))
        pictures = [
            Picture(each, size_bytes, "pixels", 4, 4, quick=quick, content=content) for each in readings
        ]
        del readings
        now = self.clock()
        request = Request(
            TINY, pictures, ("embedding",), arrived=now, deadline=now + timeout_s, priority=priority
        )
        del pictures
        asked, request = request, None  # nothing is to be kept alive here
        return [isinstance(each.outcome, RegardError) for each in await self._way(asked)]

    async def _extract(self, request):
        return await self._pipeline.extract(request)

    async def _begin(self, request):
        """Ask without a coroutine of the pipeline's, and wait for the end as a caller who may leave."""
        over, told = asyncio.Event(), []

        def done(outcome):
            told.append(outcome)
            over.set()

        leave = self._pipeline.begin(request, done)
        del request
        try:
            await over.wait()
        except asyncio.CancelledError:
            leave()
            await over.wait()
            assert isinstance(told.pop(), asyncio.CancelledError)
            raise
        outcome = told.pop()
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del leave, outcome  # its frames hold this one
        return outcome


@pytest.fixture(autouse=True, params=["_extract", "_begin"])
def way(request, monkeypatch):
    """Ask with a coroutine, and without."""
    monkeypatch.setattr(Served, "way", request.param)


@pytest.fixture
def uncollected():
    """Keep the cyclic garbage collector away."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_bug_while_a_picture_is_read_leaves_no_promise_of_room():
    """What was promised to the pictures before it is given back, so that the next request finds the server empty."""
    served = Served()
    served.batcher.learn(KEY, 1, 1000.0)  # admitted only where nobody else was promised anything
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await served.ask(None, ZeroDivisionError)


async def test_a_request_that_comes_too_late_is_refused_before_its_pictures_are_read():
    """Whoever has no time left on arrival costs no decoding and no room at the device."""
    served = Served()
    with pytest.raises(DeadlineExpiredError, match="had passed when the request arrived"):
        await served.ask(ZeroDivisionError, timeout_s=0.0)
    assert not served.batcher.waiting


async def test_a_picture_that_is_not_served_in_time_does_not_take_the_others_with_it():
    """When time is over, those that have their answer get it, and nobody computes for the rest."""
    served = Served()
    assert await served.ask(UndecodableImageError, None, timeout_s=0.5) == [True, True]
    assert not served.batcher.waiting


async def test_a_request_of_which_nothing_is_served_in_time_is_late():
    """Its error is the request's, not each picture's."""
    served = Served()
    with pytest.raises(DeadlineExpiredError, match="passed after"):
        await served.ask(None, None, timeout_s=0.5)
    assert not served.batcher.waiting


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("reuse", [None, 0])
async def test_the_memory_of_an_unreadable_picture_is_free_at_once(reuse, quick):
    """The error of one picture, though it goes on with the results, holds nothing of its request."""
    served, reading = Served(None if reuse is None else Reuse(reuse)), []
    assert await served.ask(UndecodableImageError, reading=reading, quick=quick) == [True]
    assert reading[0]() is None


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("reuse", [None, 0])
async def test_the_memory_of_a_request_that_nobody_serves_is_free_at_once(reuse):
    """An error of the whole request holds none of it, and ends it for all its pictures."""
    served, reading = Served(None if reuse is None else Reuse(reuse)), []
    asking = asyncio.create_task(served.ask(None, None, reading=reading))
    await steps()
    assert served.batcher.waiting
    served.batcher.abandon()
    with pytest.raises(UnavailableError):
        await asking
    del asking
    await asyncio.sleep(0)
    assert reading[0]() is None


@pytest.mark.usefixtures("uncollected")
async def test_the_memory_of_a_request_that_a_bug_ends_is_free_at_once():
    """The bug is told to whoever asked, and its frames hold nothing when he has heard of it."""
    served, reading = Served(), []
    with pytest.raises(ZeroDivisionError):
        await served.ask(ZeroDivisionError, reading=reading)
    assert reading[0]() is None


@pytest.mark.parametrize("way", ["_extract"], indirect=True)
@pytest.mark.parametrize("answered_first", [True, False])
async def test_who_leaves_as_his_answer_comes_is_counted_once(answered_first):
    """Whichever came first in that turn of the event loop: nobody is there to be answered."""
    served = Served()
    asking = asyncio.create_task(served.ask(None, None))
    await steps()
    if answered_first:
        served.serve()
    asking.cancel()
    if not answered_first:
        served.serve()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert served.counted() == {"cancelled": 2}


@pytest.mark.parametrize("way", ["_begin"], indirect=True)
@pytest.mark.parametrize("reuse", [None, 0])
async def test_who_leaves_at_once_is_counted(reuse):
    """However his request goes: he has asked."""
    served = Served(None if reuse is None else Reuse(reuse))
    ended = asyncio.get_running_loop().create_future()

    async def leave_at_once(request):
        served._pipeline.begin(request, ended.set_result)()
        assert isinstance(await ended, asyncio.CancelledError)
        return []

    served._way = leave_at_once
    await served.ask(None, None)
    assert served.counted() == {"cancelled": 2}


@pytest.mark.usefixtures("uncollected")
async def test_the_memory_of_a_caller_who_left_is_free_while_others_wait():
    """What stays of him in the queue, until it comes up, is an empty shell."""
    served, reading = Served(), []
    staying = asyncio.create_task(served.ask(None))
    leaving = asyncio.create_task(served.ask(None, reading=reading))
    await steps()
    assert served.batcher.waiting == 2
    leaving.cancel()
    await asyncio.wait([leaving])
    del leaving
    await asyncio.sleep(0)
    assert reading[0]() is None
    served.batcher.abandon()
    with pytest.raises(UnavailableError):
        await staying


async def test_requests_that_end_together_while_pictures_are_decoded_end_in_their_own_ways():
    """Who left is told so, and who was late that: neither hears of the other's end, nor of a bug."""
    served = Served()
    late = [asyncio.create_task(served.ask(None, None, timeout_s=0.05, quick=False)) for _ in range(3)]
    left = [asyncio.create_task(served.ask(None, None, quick=False)) for _ in range(3)]
    await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
    for each in left:
        each.cancel()
    ends = await asyncio.gather(*late, *left, return_exceptions=True)
    assert [type(each) for each in ends] == [DeadlineExpiredError] * 3 + [asyncio.CancelledError] * 3


async def test_a_caller_who_leaves_as_some_of_his_pictures_are_late_is_counted(monkeypatch):
    """What is answered by then is not sent, and what is late is still being called back."""
    monkeypatch.setattr(Served, "way", "_extract")  # without a coroutine he counts as answered
    served = Served()
    asking = asyncio.create_task(served.ask(UndecodableImageError, None, timeout_s=0.5, quick=False))
    loop = asyncio.get_running_loop()
    # Due in one turn with the deadline, and after it.
    loop.call_soon(lambda: loop.call_at(loop.time() + 0.5, asking.cancel))
    with pytest.raises(asyncio.CancelledError):
        await asking
    counted = {name: count.value for name, count in served.metrics.items.children().items()}
    assert counted == {("tiny", "cancelled"): 2}


class Content:
    """A picture's content, and in which threads it was asked for."""

    def __init__(self, content):
        self.content = content
        self.threads = []

    def __call__(self):
        self.threads.append(threading.current_thread().name.partition("_")[0])
        return (self.content,)


async def steps():
    """Let tasks run that do not wait for a thread."""
    for _ in range(4):
        await asyncio.sleep(0)


async def test_what_is_wrong_with_a_picture_is_read_once_for_all_that_are_like_it():
    """Those who wait for the first are told what he is told, and do not read one after another."""
    served, before = Served(Reuse(0)), Reading.count
    asking = [served.ask(UndecodableImageError, quick=False) for _ in range(20)]
    assert await asyncio.gather(*asking) == [[True]] * 20
    assert Reading.count == before + 1


async def test_who_shares_an_answer_leaves_his_room_at_the_device_to_others():
    """Copies of a picture that is computed are no more work, and another picture finds the room that they gave back."""
    served = Served(Reuse(0))
    for size, seconds in ((1, 10.0), (2, 20.0), (3, 50.0), (4, 100.0)):
        served.batcher.learn(KEY, size, seconds)  # two are in time, three are not
    asking = [asyncio.create_task(served.ask(None))]
    await steps()
    asking.append(asyncio.create_task(served.ask(None)))
    await steps()
    asking.append(asyncio.create_task(served.ask(None, content=Content(b"another"))))
    await steps()
    assert served.batcher.waiting == 2
    with pytest.raises(OverloadedError):
        await served.ask(None, content=Content(b"a third"))
    asking.append(asyncio.create_task(served.ask(None)))  # a copy, for which there would be none
    await steps()
    assert served.batcher.waiting == 2
    served.serve()
    assert await asyncio.gather(*asking) == [[False]] * 4


async def test_who_has_to_compute_after_all_asks_for_room_once_more():
    """When the one who computed leaves, the next one does, if there is room, and is refused if there is none."""
    served = Served(Reuse(0))
    leader = asyncio.create_task(served.ask(None))
    await steps()
    followers = [asyncio.create_task(served.ask(None)) for _ in range(2)]
    await steps()
    leader.cancel()
    await asyncio.wait([leader])
    await steps()
    assert served.batcher.waiting == 1
    other = asyncio.create_task(served.ask(None, content=Content(b"another")))
    await steps()
    served.batcher.learn(KEY, 1, 1000.0)
    followers[0].cancel()
    await asyncio.wait([followers[0]])
    with pytest.raises(OverloadedError):
        await followers[1]
    served.serve()
    assert await other == [False]


async def test_an_interactive_caller_does_not_wait_for_bulk_to_be_computed():
    """His copy of the picture goes its own way."""
    served = Served(Reuse(0))
    bulk = asyncio.create_task(served.ask(None, priority=1))
    await steps()
    urgent = asyncio.create_task(served.ask(None, priority=0))
    await steps()
    assert served.batcher.waiting == 2
    served.serve()
    assert await asyncio.gather(bulk, urgent) == [[False]] * 2


async def test_a_large_picture_is_hashed_off_the_event_loop_and_once():
    """A caller who is refused at first, and whose picture is then found on its way, has it hashed no second time."""
    served = Served(Reuse(0))
    first, copy, small = Content(b"picture"), Content(b"picture"), Content(b"small")
    asking = [asyncio.create_task(served.ask(None, content=first, size_bytes=LARGE))]
    await served.decoded()
    assert served.batcher.waiting == 1
    served.batcher.learn(KEY, 1, 1000.0)
    with pytest.raises(OverloadedError):
        await served.ask(None, content=small)
    asking.append(asyncio.create_task(served.ask(None, content=copy, size_bytes=LARGE)))
    await served.decoded()
    served.serve()
    assert await asyncio.gather(*asking) == [[False]] * 2
    assert (first.threads, copy.threads, small.threads) == (["decode"], ["decode"], ["MainThread"])
