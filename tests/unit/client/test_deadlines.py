"""Deadlines: whoever is late is woken, in time, and nobody else is."""

import asyncio

import pytest

from regard_client.deadlines import Deadlines


class Loop:
    """As much of an event loop as is needed, with a clock that the test moves."""

    def __init__(self):
        self.now = 100.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback, *arguments):
        self.timers.append((when, callback, arguments))

    def call_later(self, delay, callback, *arguments):
        self.call_at(self.now + delay, callback, *arguments)

    def move_to(self, now):
        self.now = now
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _, callback, arguments in due:
            callback(*arguments)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def deadlines():
    return Deadlines()


@pytest.fixture
def future():
    made = asyncio.new_event_loop()
    yield made.create_future
    made.close()


def test_each_is_woken_when_his_own_time_is_over(loop, deadlines, future):
    """Of two that came one after the other, each waits as long as he said."""
    first, second = future(), future()
    deadlines.add(first, 5.0, loop)
    loop.move_to(102.0)
    deadlines.add(second, 5.0, loop)
    loop.move_to(105.0)
    assert (first.done(), second.done()) == (True, False)
    loop.move_to(107.0)
    assert second.result() is None


def test_short_timeouts_do_not_wait_for_long_ones(loop, deadlines, future):
    """Who came later with less time is late first."""
    patient, hasty = future(), future()
    deadlines.add(patient, 10.0, loop)
    deadlines.add(hasty, 1.0, loop)
    loop.move_to(101.0)
    assert (patient.done(), hasty.done()) == (False, True)


def test_whoever_is_removed_or_answered_is_let_be(loop, deadlines, future):
    """A future that has its answer keeps it, and one that was removed is not touched."""
    removed, answered = future(), future()
    deadlines.add(removed, 1.0, loop)
    deadlines.add(answered, 1.0, loop)
    deadlines.remove(removed, 1.0)
    answered.set_result("answer")
    loop.move_to(101.0)
    assert (removed.done(), answered.result()) == (False, "answer")


def test_one_timer_is_enough_for_any_number(loop, deadlines, future):
    """Those who wait equally long share a timer, and none is left behind them."""
    for _ in range(100):
        deadlines.add(future(), 1.0, loop)
    assert len(loop.timers) == 1
    loop.move_to(101.0)
    assert not loop.timers


def test_a_line_that_has_ended_begins_anew(loop, deadlines, future):
    """After everybody of a timeout has left, the next one who gives it is minded like the first."""
    deadlines.add(future(), 1.0, loop)
    loop.move_to(101.0)
    late = future()
    deadlines.add(late, 1.0, loop)
    loop.move_to(102.0)
    assert late.done()
