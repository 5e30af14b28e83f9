"""Deadlines, on a loop whose time is set by hand."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from regard_server.expiry import Expiry


class Loop:
    """Stands for an event loop as far as its clock and its timers go."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback):
        timer = Timer(self, when, callback)
        self.timers.append(timer)
        return timer

    def wait(self, seconds):
        """Let time pass, and every timer come when it is due."""
        until = self.now + seconds
        while self.timers and (timer := min(self.timers, key=lambda each: each.when)).when <= until:
            self.timers.remove(timer)
            self.now = timer.when
            timer.callback()
        self.now = until


class Timer:
    def __init__(self, loop, when, callback):
        self.when = when
        self.callback = callback
        self._loop = loop

    def cancel(self):
        self._loop.timers.remove(self)


class Item:
    def __init__(self, expiry):
        self.over = False
        self.expired = False
        self._expiry = expiry

    def expire(self):
        self.expired = True
        self.end()

    def end(self):
        self.over = True
        self._expiry.left()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def expiry(loop):
    return Expiry(loop)


def test_an_earlier_deadline_comes_before_one_that_was_set_first(loop, expiry):
    """Each expires at its own time."""
    late, early = Item(expiry), Item(expiry)
    expiry.add(2.0, late)
    expiry.add(1.0, early)
    loop.wait(1.0)
    assert (early.expired, late.expired) == (True, False)
    loop.wait(1.0)
    assert late.expired


def test_one_timer_does_for_many(loop, expiry):
    """Items with rising deadlines that end in time set no timer but the first one's."""
    for number in range(1000):
        item = Item(expiry)
        expiry.add(60.0 + number, item)
        item.end()
    assert len(loop.timers) == 1


def test_timers_do_not_pile_up(loop, expiry):
    """Short deadlines that come again and again while long ones are set leave none behind."""
    long = Item(expiry)
    expiry.add(60.0, long)
    for _ in range(100):
        longer, short = Item(expiry), Item(expiry)
        expiry.add(loop.now + 60.0, longer)
        expiry.add(loop.now + 1.0, short)
        short.end()
        long.end()
        long = longer
        loop.wait(1.5)
        assert len(loop.timers) == 1


def test_shells_do_not_pile_up(expiry):
    """What ended long before its deadline is not kept until then."""
    for number in range(10_000):
        item = Item(expiry)
        expiry.add(60.0 + number, item)
        item.end()
    assert len(expiry) < 100


class Faulty(Item):
    def expire(self):
        super().expire()
        raise ValueError


def test_an_item_that_fails_does_not_keep_the_others_from_their_ends(loop, expiry):
    """Neither those whose time is over, too, nor those whose time comes later."""
    faulty, same, later = Faulty(expiry), Item(expiry), Item(expiry)
    expiry.add(1.0, faulty)
    expiry.add(1.0, same)
    expiry.add(2.0, later)
    with pytest.raises(ExceptionGroup) as caught:
        loop.wait(1.0)
    assert caught.group_contains(ValueError)
    assert same.expired
    loop.wait(1.0)
    assert later.expired


def test_an_item_that_ended_with_another_does_not_expire(loop, expiry):
    """Of two whose time is over the first may end the second."""
    second = Item(expiry)

    class First(Item):
        def expire(self):
            super().expire()
            second.end()

    expiry.add(1.0, First(expiry))
    expiry.add(1.0, second)
    loop.wait(1.0)
    assert not second.expired


class Deadlines(RuleBasedStateMachine):
    """Whatever is added and ended in whichever order, what is not over expires when its time has come."""

    def __init__(self):
        super().__init__()
        self.loop = Loop()
        self.expiry = Expiry(self.loop)
        self.items = []

    @rule(in_s=st.floats(0.0, 3.0))
    def add(self, in_s):
        item = Item(self.expiry)
        self.items.append((self.loop.now + in_s, item))
        self.expiry.add(self.loop.now + in_s, item)

    @rule(data=st.data())
    def end(self, data):
        live = [item for _, item in self.items if not item.over]
        if live:
            data.draw(st.sampled_from(live)).end()

    @rule(seconds=st.floats(0.001, 2.0))
    def wait(self, seconds):
        self.loop.wait(seconds)

    @invariant()
    def none_is_late_and_none_early(self):
        for deadline, item in self.items:
            due = min((timer.when for timer in self.loop.timers), default=None)
            assert item.over or deadline >= self.loop.now or due <= self.loop.now
            assert not item.expired or deadline <= self.loop.now


TestDeadlines = Deadlines.TestCase
