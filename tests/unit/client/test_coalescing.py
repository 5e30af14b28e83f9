"""The policy of riding together, without a server, a thread or a loop."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from regard_client.coalescing import Coalescer, Coalescing, Rider
from regard_client.images import Encoded
from regard_client.query import Query

LIMITS = Coalescing(max_images=3, max_bytes=100, in_flight=2, spacing_s=math.inf)
QUERIES = (Query(), Query(model="other"))


def rider(nbytes=1, deadline_s=100.0, query=QUERIES[0]):
    return Rider(query, Encoded(b"x" * nbytes), deadline_s)


def full_coalescer():
    """Return a coalescer whose two messages are away, and those."""
    coalescer = Coalescer(LIMITS)
    return coalescer, [coalescer.board(rider(), 0.0) for _ in range(2)]


def test_a_lone_caller_departs_at_once():
    """Who finds room departs alone, without waiting for company."""
    caller = rider()
    ride = Coalescer(LIMITS).board(caller, 0.0)
    assert ride.riders == (caller,)


def test_who_finds_no_room_rides_in_the_next_message():
    """Those who came while all messages were away go together when one is back, oldest first."""
    coalescer, (first, _) = full_coalescer()
    waiting = [rider() for _ in range(4)]
    assert [coalescer.board(each, 0.0) for each in waiting] == [None] * 4
    assert coalescer.arrive(first, 0.0).riders == tuple(waiting[:3])


def test_other_parameters_do_not_wait():
    """Messages that ask something else are another lane."""
    coalescer, _ = full_coalescer()
    assert coalescer.board(rider(query=QUERIES[1]), 0.0) is not None


def test_a_message_ends_before_the_image_that_is_too_much():
    """Bytes are limited too, and nobody is overtaken by a smaller image behind."""
    coalescer, (first, second) = full_coalescer()
    waiting = [rider(60), rider(60), rider(1)]
    for each in waiting:
        coalescer.board(each, 0.0)
    assert coalescer.arrive(first, 0.0).riders == (waiting[0],)
    assert coalescer.arrive(second, 0.0).riders == tuple(waiting[1:])


def test_an_image_larger_than_a_message_goes_alone():
    """One image may exceed the bytes of a message: the server's limit decides, not ours."""
    assert Coalescer(LIMITS).board(rider(1000), 0.0) is not None


def test_a_ride_has_the_latest_of_its_riders_deadlines():
    """The call lasts as long as the most patient of its riders."""
    coalescer, (first, _) = full_coalescer()
    for deadline_s in (5.0, 9.0, 7.0):
        coalescer.board(rider(deadline_s=deadline_s), 0.0)
    assert coalescer.arrive(first, 0.0).deadline_s == 9.0


def test_the_late_do_not_go():
    """A waiting rider whose deadline has passed takes no place."""
    coalescer, (first, _) = full_coalescer()
    late, patient = rider(deadline_s=1.0), rider()
    coalescer.board(late, 0.0)
    coalescer.board(patient, 0.0)
    assert coalescer.arrive(first, 1.0).riders == (patient,)


def test_who_left_does_not_go():
    """A rider that leaves while it waits takes no place."""
    coalescer, (first, _) = full_coalescer()
    leaver = rider()
    coalescer.board(leaver, 0.0)
    assert coalescer.leave(leaver) is None
    assert coalescer.arrive(first, 0.0) is None


def test_a_ride_is_deserted_when_its_last_rider_leaves():
    """Leaving a message that is away stops it only when nobody else waits for it."""
    coalescer, (first, _) = full_coalescer()
    one, other = rider(), rider()
    coalescer.board(one, 0.0)
    coalescer.board(other, 0.0)
    ride = coalescer.arrive(first, 0.0)
    assert coalescer.leave(one) is None
    assert coalescer.leave(other) is ride


def test_riders_who_are_turned_back_go_before_later_ones():
    """A message that was given up goes again at once, without those who left."""
    coalescer, (first, _) = full_coalescer()
    leader, follower, later = rider(), rider(), rider()
    coalescer.board(leader, 0.0)
    coalescer.board(follower, 0.0)
    ride = coalescer.arrive(first, 0.0)
    coalescer.board(later, 0.0)
    coalescer.leave(leader)
    assert coalescer.turn_back(ride, 0.0).riders == (follower, later)


def test_a_message_that_was_too_much_goes_again_in_halves():
    """A server that takes fewer images than we send gets fewer from then on."""
    coalescer, (first, second) = full_coalescer()
    waiting = [rider() for _ in range(3)]
    for each in waiting:
        coalescer.board(each, 0.0)
    ride = coalescer.arrive(first, 0.0)
    assert coalescer.shrink(ride)
    assert coalescer.turn_back(ride, 0.0).riders == (waiting[0],)
    assert coalescer.arrive(second, 0.0).riders == (waiting[1],)


def test_one_image_that_was_too_much_does_not_go_again():
    """There is nothing smaller than one image."""
    coalescer, (first, _) = full_coalescer()
    assert not coalescer.shrink(first)


def depart(coalescer, now_s):
    """Board callers at one moment until one has to wait; return the rides."""
    rides = []
    while (ride := coalescer.board(rider(deadline_s=1e9), now_s)) is not None:
        rides.append(ride)
    return rides


@pytest.mark.parametrize(("latency_s", "allowed"), [(0.001, 2), (0.1, 10), (1.0, 100)])
def test_slow_answers_allow_more_messages_in_flight(latency_s, allowed):
    """One message for every so much latency, so that waiting never costs more than sharing saves."""
    coalescer = Coalescer(Coalescing(in_flight=2, spacing_s=0.01))
    now_s = 0.0
    for _ in range(60):
        now_s += 2 * latency_s
        coalescer.arrive(coalescer.board(rider(deadline_s=1e9), now_s), now_s + latency_s)
    assert len(depart(coalescer, now_s + 2 * latency_s)) == pytest.approx(allowed, abs=1)


def test_quick_answers_allow_fewer_again():
    """What a slow spell allowed is forgotten after a few quick answers."""
    coalescer = Coalescer(Coalescing(in_flight=2, spacing_s=0.01))
    coalescer.arrive(coalescer.board(rider(deadline_s=1e9), 0.0), 10.0)
    for step in range(50):
        coalescer.arrive(coalescer.board(rider(deadline_s=1e9), 10.0 + step), 10.0 + step)
    assert len(depart(coalescer, 100.0)) == 2


def test_refusals_say_nothing_of_how_long_answers_take():
    """An overloaded server that refuses at once gets no fewer messages for it."""
    coalescer = Coalescer(Coalescing(in_flight=2, spacing_s=0.01))
    coalescer.arrive(coalescer.board(rider(deadline_s=1e9), 0.0), 1.0)
    for step in range(50):
        refused = coalescer.board(rider(deadline_s=1e9), 10.0 + step)
        coalescer.arrive(refused, 10.0 + step, answered=False)
    assert len(depart(coalescer, 100.0)) == 20


def go(coalescer, riders, now_s=0.0):
    """Let riders ask at one moment; return the rides that depart."""
    for each in riders:
        coalescer.join(each)
    return list(iter(lambda: coalescer.depart(QUERIES[0], now_s), None))


def halving_coalescer(callers, *, latency_s=0.0):
    """Return a coalescer whose callers share two messages, both of which are away, and those."""
    coalescer = Coalescer(Coalescing(min_share=2, spacing_s=1.0))
    for _ in range(50):
        coalescer.arrive(coalescer.board(rider(deadline_s=1e9), 0.0), latency_s)
    return coalescer, go(coalescer, [rider(deadline_s=1e9) for _ in range(callers)])


def sizes(rides):
    return [len(ride.riders) for ride in rides]


@pytest.mark.parametrize(
    ("callers", "expected"), [(1, [1]), (2, [2]), (3, [2, 1]), (8, [4, 4]), (9, [5, 4]), (99, [32, 32])]
)
def test_callers_of_one_moment_share_two_messages(callers, expected):
    """Half of the callers go ahead, so that client and server work at once; too few for that go together."""
    assert sizes(halving_coalescer(callers)[1]) == expected


def test_the_halves_stay_halves():
    """Callers who were answered together go on in a message of their own, beside the other half's."""
    coalescer, (first, second) = halving_coalescer(8)
    for _ in range(4):
        coalescer.land(first, 0.0)
        (again,) = go(coalescer, first.riders)
        assert again.riders == first.riders
        first, second = second, again


def test_halves_that_are_answered_together_are_halves_again():
    """Who asks again before the others do leaves them their half of a message, not smaller and smaller ones."""
    coalescer, rides = halving_coalescer(8)
    for ride in rides:
        coalescer.land(ride, 0.0)
    assert [sizes(go(coalescer, ride.riders)) for ride in rides] == [[4], [4]]


def test_callers_who_are_gone_are_forgotten():
    """Messages become smaller again when there are fewer callers."""
    coalescer, rides = halving_coalescer(40)
    few = rides[0].riders[:6]
    for _ in range(40):
        for ride in rides:
            coalescer.land(ride, 0.0)
        rides = go(coalescer, few)
    assert sizes(rides) == [3, 3]


def test_callers_of_slow_answers_go_all_together():
    """Where a message's way is long beside what it costs, nothing is gained by two, and batches are large."""
    assert sizes(halving_coalescer(20, latency_s=4.0)[1]) == [20]


@pytest.mark.parametrize("option", ["max_images", "max_bytes", "min_share", "in_flight", "spacing_s"])
def test_limits_are_positive(option):
    """A limit of zero would send nothing, and is refused by name."""
    with pytest.raises(ValueError, match=option):
        Coalescing(**{option: 0})


class CoalescerMachine(RuleBasedStateMachine):
    """Any order of boarding, arriving, turning back and leaving, with a clock that moves on."""

    riders = Bundle("riders")
    rides = Bundle("rides")

    def __init__(self):
        super().__init__()
        self.coalescer = Coalescer(LIMITS)
        self.now_s = 0.0
        self.waiting = []
        self.away = []

    def departed(self, ride):
        """Check a ride that departs, and take note of it."""
        if ride is None:
            return multiple()
        assert 1 <= len(ride.riders) <= LIMITS.max_images
        assert len(ride.riders) == 1 or sum(each.picture.nbytes for each in ride.riders) <= LIMITS.max_bytes
        lane = [each for each in self.waiting if each.query == ride.query and each.deadline_s > self.now_s]
        assert list(ride.riders) == lane[: len(ride.riders)], "oldest first, nobody twice, nobody late"
        gone = {each for each in self.waiting if each.query == ride.query and each.deadline_s <= self.now_s}
        self.waiting = [each for each in self.waiting if each not in {*ride.riders, *gone}]
        self.away.append(ride)
        return ride

    @rule(
        target=rides,
        nbytes=st.integers(1, 120),
        patience_s=st.integers(0, 5),
        query=st.sampled_from(QUERIES),
    )
    def board(self, nbytes, patience_s, query):
        new = rider(nbytes, self.now_s + patience_s, query)
        self.waiting.append(new)
        return self.departed(self.coalescer.board(new, self.now_s))

    @rule(target=rides, ride=consumes(rides))
    def arrive(self, ride):
        self.away.remove(ride)
        return self.departed(self.coalescer.arrive(ride, self.now_s))

    @rule(target=rides, ride=consumes(rides))
    def turn_back(self, ride):
        self.away.remove(ride)
        self.waiting = [each for each in ride.riders if each in ride.aboard] + self.waiting
        return self.departed(self.coalescer.turn_back(ride, self.now_s))

    @rule(data=st.data())
    def leave_the_queue(self, data):
        if self.waiting:
            leaver = data.draw(st.sampled_from(self.waiting))
            self.waiting.remove(leaver)
            assert self.coalescer.leave(leaver) is None

    @rule(data=st.data())
    def leave_a_ride(self, data):
        if self.away:
            ride = data.draw(st.sampled_from(self.away))
            leaver = data.draw(st.sampled_from(ride.riders))
            was_aboard, alone = leaver in ride.aboard, ride.aboard == {leaver}
            assert self.coalescer.leave(leaver) is (ride if was_aboard and alone else None)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds):
        self.now_s += seconds

    @invariant()
    def nobody_waits_beside_room(self):
        for query in QUERIES:
            away = sum(ride.query == query for ride in self.away)
            assert away <= LIMITS.in_flight
            patient = [each for each in self.waiting if each.query == query and each.deadline_s > self.now_s]
            assert away == LIMITS.in_flight or not patient

    @invariant()
    def nothing_is_kept_of_what_is_over(self):
        assert set(self.coalescer._riding) == set().union(*(ride.aboard for ride in self.away))
        busy = {ride.query for ride in self.away}
        assert set(self.coalescer._lanes) == busy


CoalescerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
test_any_order_of_events = CoalescerMachine.TestCase
