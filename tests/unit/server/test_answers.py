"""One request's results, and the room its pictures were promised."""

import asyncio
import gc
import logging
import weakref
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_server.answers import Answers, Room
from regard_server.batcher import Batcher
from regard_server.cost import CostModel
from regard_server.errors import OverloadedError, UndecodableImageError
from regard_server.hold import Hold
from regard_server.request import Result, Timings
from regard_server.scheduler import Scheduler
from regard_server.work import BatchKey

KEY = BatchKey("a", "pixels", 32, 32, "pooled")


def result(number):
    return Result({"embedding": number}, Timings())


@given(st.permutations(range(5)))
def test_results_come_in_any_order_and_leave_in_the_pictures_order(order):
    """Whoever waits gets all, each at its picture's place."""

    async def collect():
        answers = Answers(len(order), asyncio.get_running_loop())
        waiting = asyncio.create_task(answers.all())
        for index in order:
            await asyncio.sleep(0)
            assert not waiting.done()
            answers.give(index, result(index))
        return await waiting

    assert [each.outcome["embedding"] for each in asyncio.run(collect())] == list(range(5))


async def test_an_error_ends_the_waiting_and_results_that_follow_are_dropped():
    """The first end counts, whatever comes after it."""
    answers = Answers(1, asyncio.get_running_loop())
    answers.fail(TimeoutError())
    answers.give(0, result(0))
    answers.fail(UndecodableImageError("later"))
    with pytest.raises(TimeoutError):
        await answers.all()


async def test_what_is_there_when_time_is_over_is_not_lost_with_what_is_missing():
    """Of a request that was met in part, that part is answered, and the rest is late."""
    answers = Answers(3, asyncio.get_running_loop())
    answers.give(1, result(1))
    answers.expire(lambda _: result("late"))
    assert not answers.complete
    assert [each.outcome["embedding"] for each in await answers.all()] == ["late", 1, "late"]


@pytest.mark.parametrize("parts", [[(0, 2)], [(1, 1), (4, 2)], [(3, 1)], [(0, 3), (5, 1)]])
async def test_pictures_that_were_gathered_are_late_together(parts):
    """What is missing between the parts that have come is filled, and what comes later changes nothing."""
    answers = Answers(6, asyncio.get_running_loop())
    there = {place for index, images in parts for place in range(index, index + images)}
    for index, images in parts:
        answers.give(index, Result({"embedding": "there"}, Timings(), images))
    answers.expire(lambda images: Result({"embedding": "late"}, Timings(), images))
    for place in set(range(6)) - there:
        answers.give(place, Result({"embedding": "later"}, Timings()))
    found = [each.outcome["embedding"] for each in await answers.all() for _ in range(each.images)]
    assert found == ["there" if place in there else "late" for place in range(6)]


@pytest.mark.parametrize("lost", [(), (1,)])
async def test_where_nothing_is_there_when_time_is_over_the_request_is_late(lost):
    """Nobody is served a reply without a single answer."""
    answers = Answers(2, asyncio.get_running_loop())
    for index in lost:
        answers.lose(index, result("lost"), TimeoutError())
    answers.expire(lambda _: result("late"))
    with pytest.raises(TimeoutError):
        await answers.all()


async def test_time_that_is_over_after_the_last_answer_changes_nothing():
    """The first end counts."""
    answers = Answers(1, asyncio.get_running_loop())
    answers.give(0, result(0))
    answers.expire(lambda _: result("late"))
    assert [each.outcome["embedding"] for each in await answers.all()] == [0]


async def test_an_error_keeps_nothing_alive_once_it_was_handled():
    """What a failed request held goes at once, not when the cyclic garbage collector comes by."""

    class Held:
        pass

    async def fail(held):
        answers = Answers(1, asyncio.get_running_loop())
        answers.fail(TimeoutError())
        with pytest.raises(TimeoutError):
            await answers.all()
        return weakref.ref(held)

    gc.disable()
    try:
        kept = await fail(Held())
        assert kept() is None
    finally:
        gc.enable()


def test_room_is_given_back_once_unless_it_was_taken():
    """A promise is redeemed by an entry or released, never both and never twice."""
    costs = CostModel()
    costs.observe(KEY, 1, 1.0)
    batcher = Batcher(
        Scheduler(lambda _key: 1, costs, Hold(0.0, costs)),
        lambda _outcomes: None,
        clock=lambda: 100.0,
        logger=logging.getLogger("answers"),
    )

    def fill():
        """Promise room until there is none; return how many pictures found some."""
        found = 0
        with suppress(OverloadedError):
            while True:
                batcher.reserve(KEY, 1, ready=100.0, deadline=105.0)
                found += 1
        return found

    assert fill() >= 2
    left, taken = (Room(KEY, batcher, deadline=105.0, priority=0) for _ in range(2))
    taken.taken()
    taken.give_back()
    assert fill() == 0
    left.give_back()
    left.give_back()
    assert fill() == 1
