"""The scheduler: who goes next, who is late, who is gone."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from regard_server.scheduler import Entry, Scheduler

LIMIT = 3
KEYS = ("small", "large")


@pytest.fixture
def scheduler():
    return Scheduler(max_batch=lambda _key: LIMIT)


def entry(deadline=10.0, *, key="small", priority=0, payload="pixels"):
    return Entry(key=key, payload=payload, owner=None, deadline=deadline, priority=priority)


def test_an_empty_scheduler_forms_no_batch(scheduler):
    """Where nobody waits there is no batch."""
    assert scheduler.next_batch(0.0) is None
    assert len(scheduler) == 0


def test_the_earliest_deadline_goes_first(scheduler):
    """Within a class the order is that of the deadlines, not of arrival."""
    late, soon, middle = entry(3.0), entry(1.0), entry(2.0)
    for each in (late, soon, middle):
        scheduler.add(each)
    assert scheduler.next_batch(0.0).entries == [soon, middle, late]


def test_equal_deadlines_keep_the_order_of_arrival(scheduler):
    """Who came first goes first where deadlines do not decide."""
    entries = [entry(1.0) for _ in range(LIMIT)]
    for each in entries:
        scheduler.add(each)
    assert scheduler.next_batch(0.0).entries == entries


def test_an_interactive_entry_overtakes_bulk(scheduler):
    """The priority class counts before the deadline."""
    bulk, interactive = entry(1.0, priority=1), entry(9.0, priority=0)
    scheduler.add(bulk)
    scheduler.add(interactive)
    assert scheduler.next_batch(0.0).entries == [interactive, bulk]


def test_a_batch_is_of_one_key_and_the_most_urgent_head_decides_which(scheduler):
    """Entries of different keys never ride together, and no key closes another's batch."""
    first, second, urgent = entry(5.0), entry(6.0), entry(1.0, key="large")
    for each in (first, second, urgent):
        scheduler.add(each)
    batch = scheduler.next_batch(0.0)
    assert (batch.key, batch.entries) == ("large", [urgent])
    assert scheduler.next_batch(0.0).entries == [first, second]


def test_a_batch_holds_no_more_than_the_limit(scheduler):
    """What does not fit waits for the next batch."""
    for number in range(LIMIT + 1):
        scheduler.add(entry(float(number + 1)))
    assert [len(scheduler.next_batch(0.0).entries) for _ in range(2)] == [LIMIT, 1]
    assert scheduler.next_batch(0.0) is None


def test_the_limit_may_differ_by_key():
    """Each key's own limit is asked for."""
    scheduler = Scheduler(max_batch={"small": 2, "large": 1}.__getitem__)
    for key in ("small", "small", "large", "large"):
        scheduler.add(entry(key=key))
    assert sorted(len(scheduler.next_batch(0.0).entries) for _ in range(3)) == [1, 1, 2]


def test_late_entries_are_reported_and_take_no_place(scheduler):
    """An entry whose deadline has come is handed back apart and does not shrink the batch."""
    late = [entry(1.0), entry(2.0)]
    good = [entry(3.0 + number) for number in range(LIMIT)]
    for each in (*late, *good):
        scheduler.add(each)
    batch = scheduler.next_batch(2.0)
    assert (batch.late, batch.entries) == (late, good)


def test_a_discarded_entry_is_gone_before_the_next_batch(scheduler):
    """Whoever left is neither run nor reported, and his picture's memory goes at once."""
    left, stays = entry(1.0), entry(2.0)
    scheduler.add(left)
    scheduler.add(stays)
    assert scheduler.discard(left)
    assert left.payload is None
    assert len(scheduler) == 1
    batch = scheduler.next_batch(0.0)
    assert (batch.entries, batch.late) == ([stays], [])


def test_only_what_waits_can_be_discarded(scheduler):
    """Discarding twice, or after the entry left in a batch, changes nothing."""
    twice, gone = entry(), entry()
    scheduler.add(twice)
    assert [scheduler.discard(twice), scheduler.discard(twice)] == [True, False]
    scheduler.add(gone)
    scheduler.next_batch(0.0)
    assert not scheduler.discard(gone)
    assert gone.payload == "pixels"


def test_buckets_of_those_who_left_are_forgotten(scheduler):
    """A key that nobody waits for any more holds no memory."""
    for number in range(100):
        each = entry(key=f"shape {number}")
        scheduler.add(each)
        scheduler.discard(each)
    assert scheduler.next_batch(0.0) is None
    assert scheduler._buckets == {}


class SchedulerMachine(RuleBasedStateMachine):
    """The scheduler beside a plain list, under any order of arrivals, departures and batches."""

    entries = Bundle("entries")

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(max_batch=lambda _key: LIMIT)
        self.now = 0.0
        self.waiting = []  # in the order of arrival

    @rule(
        target=entries,
        key=st.sampled_from(KEYS),
        delay=st.integers(0, 5),
        priority=st.integers(0, 1),
    )
    def add(self, key, delay, priority):
        added = entry(self.now + delay, key=key, priority=priority)
        self.scheduler.add(added)
        self.waiting.append(added)
        return added

    @rule(left=consumes(entries))
    def discard(self, left):
        assert self.scheduler.discard(left) == (left in self.waiting)
        if left in self.waiting:
            self.waiting.remove(left)

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def next_batch(self):
        batch = self.scheduler.next_batch(self.now)
        if not self.waiting:
            assert batch is None
            return
        ranked = sorted(self.waiting, key=lambda each: (each.priority, each.deadline))  # stable: then arrival
        of_key = [each for each in ranked if each.key == ranked[0].key]
        assert batch.key == ranked[0].key
        alive = [each for each in of_key if each.deadline > self.now]
        assert batch.entries == alive[:LIMIT]
        assert all(each.deadline <= self.now for each in batch.late)
        taken = [*batch.late, *batch.entries]
        assert len({id(each) for each in taken}) == len(taken)
        for each in taken:
            self.waiting.remove(each)  # fails for whoever is answered twice, or was never there

    @invariant()
    def nobody_is_lost(self):
        assert len(self.scheduler) == len(self.waiting)
        assert all(each.waiting for each in self.waiting)

    def teardown(self):
        while self.waiting:
            self.next_batch()
        assert self.scheduler.next_batch(self.now) is None


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
