"""Which calls are not sent to a server that refuses them."""

import itertools
import math

import pytest

from regard_client.errors import OverloadedError
from regard_client.query import Query
from regard_client.throttle import Throttle

QUERY = Query()


def evenly():
    """Return chance without chance: numbers that are spread as evenly as can be."""
    numbers = (each * (math.sqrt(5) - 1) / 2 % 1 for each in itertools.count(1))
    return lambda: next(numbers)


def overload(throttle, asked_per_s, accepted_per_s, *, seconds=60, began_s=0.0, query=QUERY, timeout_s=1.0):
    """Ask a server that has room for so many; return how many were sent, by second."""
    sent, room = [0] * seconds, 1.0
    for number in range(seconds * asked_per_s):
        room = min(room + accepted_per_s / asked_per_s, 2.0)
        now_s = began_s + number / asked_per_s
        try:
            throttle.check(query, timeout_s, now_s)
        except OverloadedError:
            continue
        sent[number // asked_per_s] += 1
        if room >= 1.0:
            room -= 1.0
            throttle.accepted(query, timeout_s, now_s)
        else:
            throttle.refused(query, timeout_s, now_s, 0.5)
    return sent


@pytest.mark.parametrize("load", [3, 5, 50])
def test_about_twice_what_is_accepted_is_sent(load):
    """However much more is asked, the server has to refuse no more than it accepts."""
    sent = overload(Throttle(2.0, "there:1", evenly()), load * 100, 100)
    assert 150 < sum(sent[30:]) / 30 < 250


@pytest.mark.parametrize("asked", [50, 100, 150, 200])
def test_below_the_ratio_everything_is_sent(asked):
    """A server that accepts half of what it is asked is asked for everything."""
    assert overload(Throttle(2.0, "there:1", evenly()), asked, 100) == [asked] * 60


def test_an_infinite_ratio_holds_nothing_back():
    """Who wants every refusal from the server gets it."""
    assert overload(Throttle(math.inf, "there:1", evenly()), 500, 100) == [500] * 60


def test_a_server_that_has_room_again_is_noticed():
    """When it has refused nothing for a second, nothing is held back."""
    throttle = Throttle(2.0, "there:1", evenly())
    overload(throttle, 500, 100)
    assert overload(throttle, 500, 500, began_s=60.0)[1:] == [500] * 59


def test_one_message_refused_among_many_accepted_holds_nobody_back():
    """Its riders are refused in one moment, which is no overload."""
    throttle = Throttle(2.0, "there:1", lambda: 0.0)
    for number in range(1000):
        throttle.accepted(QUERY, 1.0, number / 2000)
    for _ in range(32):
        throttle.refused(QUERY, 1.0, 0.5, None)
    for _ in range(100):
        throttle.check(QUERY, 1.0, 0.5)


def test_messages_refused_now_and_then_hold_nobody_back():
    """A server that accepts nearly everything, and refuses a message of 32 every 1.5 s, is sent everything."""
    throttle = Throttle(2.0, "there:1", lambda: 0.0)
    for number in range(20_000):  # 2,000 a second
        throttle.check(QUERY, 1.0, number / 2000)
        if number % 3000 >= 3000 - 32:
            throttle.refused(QUERY, 1.0, number / 2000, None)
        else:
            throttle.accepted(QUERY, 1.0, number / 2000)


def test_an_overload_is_noticed_within_seconds():
    """What was accepted before it does not put the throttle off for long."""
    throttle = Throttle(2.0, "there:1", evenly())
    overload(throttle, 100, 100, seconds=10)
    sent = overload(throttle, 500, 100, seconds=10, began_s=10.0)
    assert max(sent[3:]) < 300


def test_many_kinds_in_turn_are_held_back_too():
    """A server that refuses all of many models is not sent everything because they are many."""
    throttle = Throttle(2.0, "there:1", evenly())
    queries = [Query(model=str(number)) for number in range(80)]
    sent = 0
    for number in range(80 * 100):
        try:
            throttle.check(queries[number % 80], 1.0, number / 8000)
        except OverloadedError:
            continue
        sent += 1
        throttle.refused(queries[number % 80], 1.0, number / 8000, None)
    assert sent < 80 * 50


def test_kinds_beyond_count_push_nobody_out():
    """There is an end to what is counted, and what is counted stays so while it is refused."""
    throttle = Throttle(2.0, "there:1", lambda: 0.0)
    for _ in range(100):
        throttle.refused(QUERY, 1.0, 0.0, None)
    for number in range(1000):
        throttle.refused(Query(model=str(number)), 1.0, 0.0, None)
    with pytest.raises(OverloadedError):
        throttle.check(QUERY, 1.0, 0.5)
    throttle.refused(Query(model="new"), 1.0, 2.0, None)  # the others' are long ago
    for _ in range(100):
        throttle.refused(Query(model="new"), 1.0, 2.0, None)
    with pytest.raises(OverloadedError):
        throttle.check(Query(model="new"), 1.0, 2.0)


def test_a_server_that_accepts_nothing_is_asked_again_and_again():
    """Refusals fade, so that no silence is for ever."""
    throttle = Throttle(2.0, "there:1", evenly())
    sent = overload(throttle, 500, 0, seconds=120)
    assert sum(sent[60:]) > 0
    assert overload(throttle, 500, 500, began_s=300.0)[0] == 500


def test_a_burst_that_was_refused_is_soon_forgotten():
    """Who comes when the server refuses no more is sent, however many were refused before."""
    throttle = Throttle(2.0, "there:1", evenly())
    overload(throttle, 5000, 100, seconds=1)
    assert overload(throttle, 10, 10, seconds=3, began_s=3.0) == [10] * 3


def test_a_few_refusals_hold_nobody_back():
    """A caller who tries again now and then is sent every time."""
    assert overload(Throttle(2.0, "there:1", evenly()), 1, 0) == [1] * 60


def test_other_calls_are_another_matter():
    """Calls that ask something else, or have much longer, may be accepted where these are not."""
    throttle = Throttle(2.0, "there:1", evenly())
    overload(throttle, 500, 0)
    for query, timeout_s in ((Query(model="other"), 1.0), (QUERY, 60.0)):
        for _ in range(100):
            throttle.check(query, timeout_s, 60.0)


def test_who_is_held_back_is_told_what_the_server_said():
    """The error names the server, its reason, when to come back, and what else can be done."""
    throttle = Throttle(2.0, "there:1", lambda: 0.0)
    overload(throttle, 500, 100)
    with pytest.raises(OverloadedError, match=r"not sent: there:1 .* Transport\.sent_per_accepted") as caught:
        throttle.check(QUERY, 1.0, 60.0)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after_s == 0.5
