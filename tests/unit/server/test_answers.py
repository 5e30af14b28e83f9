"""One request's results, and the room its pictures were promised."""

import gc
import logging
import weakref
from contextlib import suppress

import numpy as np
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


def ended(answers):
    """Return a list that has one item when the waiting is over."""
    over = []
    answers.when_over(lambda: over.append(answers))
    return over


def outcomes(answers):
    return [each.outcome["embedding"] for each in answers.outcome() for _ in range(each.images)]


@given(st.permutations(range(5)))
def test_results_come_in_any_order_and_leave_in_the_pictures_order(order):
    """Whoever waits gets all, each at its picture's place."""
    answers = Answers(len(order))
    over = ended(answers)
    for index in order:
        assert not over
        answers.give(index, result(index))
    assert len(over) == 1
    assert outcomes(answers) == list(range(5))


def test_who_asks_when_the_waiting_is_over_is_told_at_once():
    """A request may have its end before anybody waits for it."""
    answers = Answers(1)
    answers.give(0, result(0))
    assert ended(answers) == [answers]


def test_an_error_ends_the_waiting_and_results_that_follow_are_dropped():
    """The first end counts, whatever comes after it."""
    answers, first = Answers(1), TimeoutError()
    over = ended(answers)
    answers.fail(first)
    answers.give(0, result(0))
    answers.fail(UndecodableImageError("later"))
    assert len(over) == 1
    assert answers.outcome() is first


def test_what_is_there_when_time_is_over_is_not_lost_with_what_is_missing():
    """Of a request that was met in part, that part is answered, and the rest is late."""
    answers = Answers(3)
    answers.give(1, result(1))
    answers.expire(lambda _: result("late"))
    assert not answers.complete
    assert outcomes(answers) == ["late", 1, "late"]


@pytest.mark.parametrize("parts", [[(0, 2)], [(1, 1), (4, 2)], [(3, 1)], [(0, 3), (5, 1)]])
def test_pictures_that_were_gathered_are_late_together(parts):
    """What is missing between the parts that have come is filled, and what comes later changes nothing."""
    answers = Answers(6)
    there = {place for index, images in parts for place in range(index, index + images)}
    for index, images in parts:
        answers.give(index, Result({"embedding": "there"}, Timings(), images))
    answers.expire(lambda images: Result({"embedding": "late"}, Timings(), images))
    for place in set(range(6)) - there:
        answers.give(place, Result({"embedding": "later"}, Timings()))
    assert outcomes(answers) == ["there" if place in there else "late" for place in range(6)]


@pytest.mark.parametrize("lost", [(), (1,)])
def test_where_nothing_is_there_when_time_is_over_the_request_is_late(lost):
    """Nobody is served a reply without a single answer."""
    answers = Answers(2)
    for index in lost:
        answers.lose(index, result("lost"), TimeoutError())
    answers.expire(lambda _: result("late"))
    assert isinstance(answers.outcome(), TimeoutError)


def test_time_that_is_over_after_the_last_answer_changes_nothing():
    """The first end counts."""
    answers = Answers(1)
    answers.give(0, result(0))
    answers.expire(lambda _: result("late"))
    assert outcomes(answers) == [0]


def test_what_was_taken_is_not_kept():
    """Neither results nor the frames that an error holds outlive who was given them."""

    class Held:
        pass

    def fail(held):
        answers = Answers(1)
        try:
            held.no_such_thing  # noqa: B018 - raises
        except AttributeError as error:
            answers.fail(error)
        answers.outcome()
        return answers, weakref.ref(held)

    gc.disable()
    try:
        kept, held = fail(Held())
        assert held() is None
        answers, value = Answers(1), np.zeros(1)
        answers.give(0, result(value))
        held = weakref.ref(value)
        answers.outcome()
        del value
        assert held() is None
        assert kept.complete is False
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
