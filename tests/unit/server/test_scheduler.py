"""The scheduler: who goes next, who is late, who is gone."""

from collections import Counter, deque
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from regard_server.cost import CostModel
from regard_server.hold import Hold
from regard_server.scheduler import Batch, Scheduler
from regard_server.turns import FAIR_SHARE
from regard_server.waiting import Entry

LIMIT = 3
KEYS = ("small", "large")


@pytest.fixture
def scheduler():
    return make_scheduler()


def make_scheduler(max_batch=lambda _key: LIMIT, *, costs=None, max_delay_s=0.0, devices=1):
    """A scheduler that knows of no costs and never holds, unless it is given some."""
    costs = CostModel() if costs is None else costs
    return Scheduler(max_batch, costs, Hold(max_delay_s, costs), devices=devices)


def known_costs(*sizes_and_seconds):
    """Costs of the key "small"."""
    costs = CostModel()
    for size, seconds in sizes_and_seconds:
        costs.observe("small", size, seconds)
    return costs


class Pictures(tuple):
    """The payload of an entry of several images."""

    __slots__ = ()

    def divide(self, count):
        return Pictures(self[:count]), Pictures(self[count:])


def entry(deadline=10.0, *, key="small", priority=0, payload="pixels", size=1):
    return Entry(key=key, payload=payload, owner=None, deadline=deadline, priority=priority, size=size)


def several(*pictures, **given):
    return entry(payload=Pictures(pictures), size=len(pictures), **given)


def test_an_empty_scheduler_forms_no_batch(scheduler):
    """Where nobody waits there is no batch."""
    assert scheduler.decide(0.0) is None
    assert len(scheduler) == 0


def test_the_earliest_deadline_goes_first(scheduler):
    """Within a class the order is that of the deadlines, not of arrival."""
    late, soon, middle = entry(3.0), entry(1.0), entry(2.0)
    for each in (late, soon, middle):
        scheduler.add(each, 0.0)
    assert scheduler.decide(0.0).entries == [soon, middle, late]


def test_equal_deadlines_keep_the_order_of_arrival(scheduler):
    """Who came first goes first where deadlines do not decide."""
    entries = [entry(1.0) for _ in range(LIMIT)]
    for each in entries:
        scheduler.add(each, 0.0)
    assert scheduler.decide(0.0).entries == entries


def test_an_interactive_entry_overtakes_bulk(scheduler):
    """The priority class counts before the deadline."""
    bulk, interactive = entry(1.0, priority=1), entry(9.0, priority=0)
    scheduler.add(bulk, 0.0)
    scheduler.add(interactive, 0.0)
    assert scheduler.decide(0.0).entries == [interactive, bulk]


def test_a_batch_is_of_one_key_and_the_most_urgent_head_decides_which(scheduler):
    """Entries of different keys never ride together, and no key closes another's batch."""
    first, second, urgent = entry(5.0), entry(6.0), entry(1.0, key="large")
    for each in (first, second, urgent):
        scheduler.add(each, 0.0)
    batch = scheduler.decide(0.0)
    assert (batch.key, batch.entries) == ("large", [urgent])
    assert scheduler.decide(0.0).entries == [first, second]


def test_a_batch_holds_no_more_than_the_limit(scheduler):
    """What does not fit waits for the next batch."""
    for number in range(LIMIT + 1):
        scheduler.add(entry(float(number + 1)), 0.0)
    assert [len(scheduler.decide(0.0).entries) for _ in range(2)] == [LIMIT, 1]
    assert scheduler.decide(0.0) is None


def test_an_entry_of_several_images_fills_up_one_batch_and_goes_on_in_the_next(scheduler):
    """Where there is no room for all of them, the first ones ride, and the rest keeps its place in the order."""
    scheduler.add(entry(1.0), 0.0)
    scheduler.add(several("a", "b", "c", deadline=2.0), 0.0)
    scheduler.add(entry(3.0, payload="last"), 0.0)
    assert len(scheduler) == 5
    first, second = scheduler.decide(0.0), scheduler.decide(0.0)
    assert (first.size, second.size) == (3, 2)
    assert [(each.payload, each.first, each.size) for each in first.entries[1:]] == [(("a", "b"), 0, 2)]
    assert [(each.payload, each.first, each.size) for each in second.entries] == [
        (("c",), 2, 1),
        ("last", 0, 1),
    ]
    assert scheduler.decide(0.0) is None


def test_who_leaves_takes_along_what_waits_of_his_images(scheduler):
    """What is running of an entry goes on, the rest is gone, and so is its part of the backlog."""
    left = several(*range(5))
    scheduler.add(left, 0.0)
    running = scheduler.decide(0.0)
    assert scheduler.discard(left)
    assert (running.entries[0].payload, left.payload) == ((0, 1, 2), None)
    assert len(scheduler) == 0
    assert not scheduler._forecast
    assert scheduler.decide(0.0) is None


def test_of_several_images_as_many_are_dropped_as_are_too_many():
    """Where a deadline leaves time for some of an entry's images, those ride, and the others are late."""
    scheduler = make_scheduler(lambda _key: 8, costs=known_costs((1, 1.0), (8, 2.0)))
    scheduler._patience = 0.0  # no batch may be cut short for its first one's sake
    scheduler.add(several(*range(8), deadline=1.2), 0.0)
    batch = scheduler.decide(0.0)
    assert [each.payload for each in batch.entries] == [(6, 7)]
    assert [image for late in batch.late for image in late.payload] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("promised", [True, False])
def test_an_entry_is_counted_once_whether_or_not_it_was_promised_room(scheduler, promised):
    """Who was promised room is counted from then on; who was not, from when he waits."""
    backlog = scheduler._forecast._backlogs
    if promised:
        assert scheduler.reserve("small", 3, ready=0.0, deadline=10.0, now=0.0) == 0.0
        assert backlog[0].count("small") == 3
    added = several(*range(3))
    added.promised = promised
    scheduler.add(added, 0.0)
    assert backlog[0].count("small") == 3
    scheduler.discard(added)
    assert not scheduler._forecast


def test_the_limit_may_differ_by_key():
    """Each key's own limit is asked for."""
    scheduler = make_scheduler({"small": 2, "large": 1}.__getitem__)
    for key in ("small", "small", "large", "large"):
        scheduler.add(entry(key=key), 0.0)
    assert sorted(len(scheduler.decide(0.0).entries) for _ in range(3)) == [1, 1, 2]


def test_late_entries_are_reported_and_take_no_place(scheduler):
    """An entry whose deadline has come is handed back apart and does not shrink the batch."""
    late = [entry(1.0), entry(2.0)]
    good = [entry(3.0 + number) for number in range(LIMIT)]
    for each in (*late, *good):
        scheduler.add(each, 0.0)
    batch = scheduler.decide(2.0)
    assert (batch.late, batch.entries) == (late, good)


def test_a_discarded_entry_is_gone_before_the_next_batch(scheduler):
    """Whoever left is neither run nor reported, and his picture's memory goes at once."""
    left, stays = entry(1.0), entry(2.0)
    scheduler.add(left, 0.0)
    scheduler.add(stays, 0.0)
    assert scheduler.discard(left)
    assert left.payload is None
    assert len(scheduler) == 1
    batch = scheduler.decide(0.0)
    assert (batch.entries, batch.late) == ([stays], [])


def test_only_what_waits_can_be_discarded(scheduler):
    """Discarding twice, or after the entry left in a batch, changes nothing."""
    twice, gone = entry(), entry()
    scheduler.add(twice, 0.0)
    assert [scheduler.discard(twice), scheduler.discard(twice)] == [True, False]
    scheduler.add(gone, 0.0)
    scheduler.decide(0.0)
    assert not scheduler.discard(gone)
    assert gone.payload == "pixels"


def test_buckets_of_those_who_left_are_forgotten(scheduler):
    """A key that nobody waits for any more holds no memory."""
    for number in range(100):
        each = entry(key=f"shape {number}")
        scheduler.add(each, 0.0)
        scheduler.discard(each)
    assert scheduler.decide(0.0) is None
    assert scheduler._buckets == {}


def test_nobody_starves(scheduler):
    """However many urgent entries come, one batch in so many is the least urgent class's."""
    bulk = entry(1000.0, priority=1)
    scheduler.add(bulk, 0.0)
    for turn in range(FAIR_SHARE):
        for _ in range(LIMIT):
            scheduler.add(entry(5.0 + turn), 0.0)
        if bulk in scheduler.decide(0.0).entries:
            break
    assert not bulk.waiting


@pytest.mark.parametrize("full_s", [0.3, 3.0, 30.0])
def test_a_turn_comes_after_nine_times_what_it_takes(full_s):
    """However small the batches are that go first, and however heavy its own, it gets a tenth of the time."""
    costs = known_costs((1, 1.0), (3, 3.0))
    costs.observe("large", LIMIT, full_s)
    scheduler = make_scheduler(costs=costs)
    for _ in range(2 * LIMIT):
        scheduler.add(entry(1000.0, key="large", priority=1), 0.0)
    between = []
    for _ in range(2):
        between.append(0)
        scheduler.add(entry(1000.0), 0.0)
        while (batch := scheduler.decide(0.0)).key == "small":
            between[-1] += batch.size  # one second each
            scheduler.add(entry(1000.0), 0.0)
    assert between == [(FAIR_SHARE - 1) * max(3.0, full_s)] * 2


def test_whoever_had_the_device_alone_has_not_been_passed_over():
    """The turn is for those who were passed over: their own batches are none of others'."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for _ in range(100):
        scheduler.add(entry(1000.0, priority=1), 0.0)
        scheduler.decide(0.0)
    for priority in (1, 0):
        scheduler.add(entry(1000.0, key=KEYS[priority], priority=priority), 0.0)
    assert [each.priority for each in scheduler.decide(0.0).entries] == [0]


def test_a_batch_shrinks_to_meet_its_earliest_deadline():
    """The largest batch goes whose predicted finish is in time for the first of it."""
    scheduler = make_scheduler(lambda _key: 8, costs=known_costs((1, 1.0), (8, 8.0)))
    for deadline in (4.5, *[100.0] * 7):
        scheduler.add(entry(deadline), 0.0)
    assert len(scheduler.decide(0.0).entries) == 4


def test_a_doomed_head_does_not_shrink_the_batch_of_the_others():
    """Who cannot be answered in time even alone is dropped, and the others ride in full."""
    scheduler = make_scheduler(lambda _key: 8, costs=known_costs((1, 1.0), (8, 8.0)))
    doomed, *others = [entry(deadline) for deadline in (0.5, *[100.0] * 7)]
    for each in (doomed, *others):
        scheduler.add(each, 0.0)
    batch = scheduler.decide(0.0)
    assert (batch.late, batch.entries) == ([doomed], others)


def test_the_last_one_waiting_may_try_whatever_is_predicted():
    """A cost that was learnt too high mends itself: nobody else pays for the attempt."""
    scheduler = make_scheduler(costs=known_costs((1, 50.0)))
    hopeful = entry(1.0)
    scheduler.add(hopeful, 0.0)
    assert scheduler.decide(0.0).entries == [hopeful]


def test_wasteful_batches_for_a_deadline_s_sake_are_rationed():
    """Under overload heads at the edge are dropped instead of ending in batches of one for everybody."""
    scheduler = make_scheduler(lambda _key: 8, costs=known_costs((1, 1.0), (8, 2.0)))
    sizes = []
    for turn in range(3):
        now = 3.0 * turn
        for deadline in (now + 1.2, *[now + 100.0] * 7):
            scheduler.add(entry(deadline), now)
        batch = scheduler.decide(now)
        sizes.append(len(batch.entries))
    assert sizes == [2, 2, 8]
    assert len(batch.late) == 1


def test_a_reservation_is_refused_when_it_would_finish_late():
    """Admission adds up what runs, what waits, what was promised, and what is asked."""
    scheduler = make_scheduler(lambda _key: 4, costs=known_costs((1, 1.0), (4, 4.0)))
    for _ in range(4):
        scheduler.add(entry(100.0), 0.0)
    scheduler.decide(0.0)
    assert scheduler.reserve("small", 2, ready=0.0, deadline=10.0, now=0.0) == 0.0
    assert scheduler.reserve("small", 4, ready=0.0, deadline=10.0, now=0.0) > 0.0
    scheduler.release("small", 2, deadline=10.0)
    assert scheduler.reserve("small", 2, ready=0.0, deadline=10.0, now=0.0) == 0.0


def test_a_refused_reservation_promises_nothing():
    """After a refusal the room is as it was, and the answer says how late it would have been."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    scheduler.add(entry(10.0), 0.0)
    before = scheduler.reserve("small", 50, ready=0.0, deadline=10.0, now=0.0)
    assert before > 30.0
    assert scheduler.reserve("small", 50, ready=0.0, deadline=10.0, now=0.0) == before


def test_alone_in_the_server_one_is_never_refused():
    """A prediction that is wrong refuses nobody for ever."""
    scheduler = make_scheduler(costs=known_costs((1, 50.0)))
    assert scheduler.reserve("small", 1, ready=0.0, deadline=1.0, now=0.0) == 0.0


@pytest.mark.parametrize(
    "others",
    [{"deadline": 1000.0, "priority": 1}, {"deadline": 1000.0}, {"deadline": 1000.0, "key": "large"}],
    ids=["bulk", "due later", "of another model"],
)
def test_nobody_is_refused_for_those_whom_he_would_overtake(others):
    """Whoever goes next is let in, however much waits behind him; whoever comes last waits for his class's turn."""
    costs = known_costs((1, 1.0), (3, 3.0))
    costs.observe("large", 1, 1.0)
    scheduler = make_scheduler(costs=costs)
    for _ in range(90):
        scheduler.add(entry(**others), 0.0)
    assert scheduler.foresee(5.0, 0.0) == 0.0
    assert scheduler.reserve("small", 1, ready=0.0, deadline=5.0, now=0.0) == 0.0
    assert scheduler.reserve("small", 1, ready=0.0, deadline=5.0, now=0.0, priority=2) > 20.0
    scheduler.add(entry(5.0), 0.0)
    assert scheduler.decide(0.0).entries[0].deadline == 5.0


def test_bulk_waits_for_all_that_is_more_urgent():
    """More urgent classes are ahead whatever their deadlines."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for _ in range(30):
        scheduler.add(entry(1000.0), 0.0)
    assert scheduler.reserve("small", 1, ready=0.0, deadline=20.0, now=0.0, priority=1) > 10.0
    assert scheduler.reserve("small", 1, ready=0.0, deadline=50.0, now=0.0, priority=1) == 0.0


def test_bulk_is_promised_its_turns_however_much_is_more_urgent():
    """Behind 100 s of more urgent work the tenth batch is bulk's all the same, and as many are let in as ride in it."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for _ in range(100):
        scheduler.add(entry(1000.0), 0.0)
    ask = partial(scheduler.reserve, "small", ready=0.0, deadline=40.0, now=0.0, priority=1)
    assert ask(LIMIT) == 0.0
    assert ask(1) > 20.0
    for _ in range(LIMIT):
        bulk = entry(40.0, priority=1)
        bulk.promised = True
        scheduler.add(bulk, 0.0)
    now, classes = 0.0, []
    while now < 40.0:
        batch = scheduler.decide(now)
        assert not batch.late
        now += 3.0
        scheduler.finished(batch, now)
        classes.append({each.priority for each in batch.entries})
    assert classes.index({1}) == FAIR_SHARE - 1


def test_the_urgent_are_told_of_the_batch_that_is_not_theirs():
    """Whoever would wait for the least urgent class's turn is not promised to be served before it."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for _ in range(LIMIT):
        scheduler.add(entry(1000.0, priority=1), 0.0)
    ask = partial(scheduler.reserve, "small", LIMIT, ready=0.0, now=0.0)
    scheduler._turns.passed_s = 20.0  # the turn is due at 27 s, or a batch before that
    assert ask(deadline=6.0) == 0.0
    scheduler.release("small", LIMIT, deadline=6.0)
    scheduler._turns.passed_s = 21.0
    assert ask(deadline=6.0) > 2.0
    scheduler._turns.passed_s = 270.0  # nobody came for nine of them; one is left
    assert ask(deadline=9.0) == 0.0


def test_the_batch_that_is_not_theirs_may_come_before_one_that_is_not_full():
    """Whoever rides in the second batch from now waits for the one between, however few ride with him."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for _ in range(LIMIT):
        scheduler.add(entry(1000.0, priority=1), 0.0)
        scheduler.add(entry(6.0), 0.0)
    scheduler._turns.passed_s = 20.0
    assert scheduler.reserve("small", 1, ready=0.0, deadline=6.5, now=0.0) > 2.0


def test_the_turn_that_others_took_is_foreseen_while_they_are_away():
    """Bulk that is let in just for its turn is counted before it comes, and no more once it did not come for one."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    scheduler._turns.passed_s = 27.0
    for _ in range(LIMIT):
        scheduler.add(entry(1000.0, priority=1), 0.0)
        scheduler.add(entry(11.0), 0.0)
    assert {each.priority for each in scheduler.decide(0.0).entries} == {1}
    ask = partial(scheduler.reserve, "small", LIMIT, ready=0.0, now=0.0)
    scheduler._turns.passed_s = 24.0
    assert ask(deadline=12.0) == pytest.approx(2.25)
    scheduler.decide(0.0)
    assert scheduler._turns.passed_s == 27.0
    scheduler.add(entry(1000.0), 0.0)
    scheduler.decide(0.0)
    assert ask(deadline=13.0) == 0.0


@pytest.mark.parametrize("urgent", [{"priority": 0}, {"deadline_s": 2.0}], ids=["class", "deadline"])
def test_whoever_is_overtaken_is_promised_what_is_left(urgent):
    """Where others who come later take half of the device, what is ahead takes twice as long, and a little more."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    waiting = {"priority": 1 if "priority" in urgent else 0}
    now = 0.0
    for turn in range(40):
        for of in (urgent, {}) if turn else ({},):
            priority = of.get("priority", waiting["priority"])
            added = entry(now + of.get("deadline_s", 64.0), priority=priority)
            added.arrived = now
            scheduler.add(added, now)
            batch = scheduler.decide(now)
            now += 1.0
            scheduler.finished(batch, now)
    for _ in range(20 * LIMIT):
        scheduler.add(entry(now + 50.0, **waiting), now)
    late_s = scheduler.reserve("small", 1, ready=now, deadline=now + 64.0, now=now, **waiting)
    assert 61.0 / (1 - 0.4) < late_s + 64.0 < 61.0 / (1 - 0.7)


@pytest.mark.parametrize(("priority", "count"), [(0, 1), (1, 2 * LIMIT)])
def test_the_first_who_is_overtaken_is_told(priority, count):
    """Where all were alike so far, whoever gives more, or is of a lesser class, waits for them all the same."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    for second in range(41):
        now = float(second)
        added = entry(now + 3.0)
        added.arrived = now
        scheduler.add(added, now)
        if second < 40:
            scheduler.finished(scheduler.decide(now), now + 1.0)
    late_s = scheduler.reserve("small", count, ready=40.0, deadline=50.0, now=40.0, priority=priority)
    assert late_s > 10.0  # a tenth is left to him


def test_those_who_overtook_and_went_away_are_waited_for_no_longer():
    """A device that was idle for a minute is all there for whoever comes then, whoever had it before."""
    scheduler = make_scheduler(costs=known_costs((1, 1.0), (3, 3.0)))
    now = 0.0
    for priority in (*[0] * 40, 1):
        added = entry(now + 64.0, priority=priority)
        added.arrived = now
        scheduler.add(added, now)
        batch = scheduler.decide(now)
        now += 1.0
        scheduler.finished(batch, now)
    ask = partial(scheduler.reserve, "small", 1, priority=1)
    assert ask(ready=now, deadline=now + 64.0, now=now) == 0.0
    assert ask(ready=now, deadline=now + 5.0, now=now) > 5.0  # a tenth is left to him
    now += 60.0
    assert ask(ready=now, deadline=now + 5.0, now=now) == 0.0


def one_device(scheduler, seconds_of, callers, *, until_s):
    """Let callers come to one device: key, every so many ms, timeout in s, class. Return who was refused, and late."""
    refused, late, running, free = Counter(), Counter(), None, 0.0
    for tick in range(1, int(until_s * 1000)):
        now = tick / 1000
        for key, _, timeout_s, priority in [each for each in callers if tick % each[1] == 0]:
            deadline = now + timeout_s
            if scheduler.reserve(key, 1, ready=now, deadline=deadline, now=now, priority=priority):
                refused[key] += 1
            else:
                scheduler.add(Entry(key, "pixels", None, deadline, priority, now, promised=True), now)
        if running and now >= free:
            scheduler.finished(running, now)
            late.update(each.key for each in running.entries if each.deadline < now)
            running = None
        while running is None and (batch := scheduler.decide(now)):
            late.update(each.key for each in batch.late)
            if batch.entries:
                running, free = batch, now + seconds_of(batch.key, batch.size)
    return refused, late


def test_a_model_beside_an_overloaded_one_is_served():
    """Of a light model's callers with a second's time none is refused or late, though a heavy one has 30 s of work."""

    def seconds_of(key, size):
        return size / 32 if key == "heavy" else 0.002

    costs = CostModel()
    for key in ("heavy", "light"):
        for size in (1, 32):
            costs.observe(key, size, seconds_of(key, size))
    scheduler = make_scheduler(lambda key: 8 if key == "heavy" else 32, costs=costs)
    callers = [("heavy", 20, 30.0, 0), ("light", 100, 1.0, 0)]
    refused, late = one_device(scheduler, seconds_of, callers, until_s=50)
    assert refused["heavy"] > 0
    assert (refused["light"], late["light"]) == (0, 0)


@pytest.mark.parametrize(("timeout_s", "kept"), [(0.25, 0.5), (1.5, 0.5), (0.25, 10.0)])
def test_urgent_callers_beside_bulk_are_served_if_they_are_let_in(timeout_s, kept):
    """Of twice as many as a device can serve none is let in and late, for a tenth that is bulk's; and bulk has that."""

    def seconds_of(_key, size):
        return 0.004 + 0.0021 * size

    costs = CostModel()
    for key in ("urgent", "bulk"):
        for size in (1, 32):
            costs.observe(key, size, seconds_of(key, size))
    scheduler = make_scheduler(lambda _: 32, costs=costs)
    callers = [("urgent", 1, timeout_s, 0), ("bulk", 4, kept, 1)]
    refused, late = one_device(scheduler, seconds_of, callers, until_s=20)
    assert refused["urgent"] > 0
    assert late["urgent"] == 0
    assert 5000 - refused["bulk"] - late["bulk"] > 0.8 * 20 * 450 / FAIR_SHARE


@given(waiting=st.integers(0, 12), runs=st.booleans(), deadline=st.floats(0.0, 20.0))
def test_what_is_foreseen_is_what_a_reservation_would_say(waiting, runs, deadline):
    """Where one kind waits, somebody is refused unread just when his image would be, and is told the same."""
    scheduler = make_scheduler(lambda _key: 4, costs=known_costs((1, 1.0), (4, 3.0)))
    for _ in range(waiting + 4 * runs):
        scheduler.add(entry(10.0), 0.0)
    if runs:
        scheduler.decide(0.0)
    foreseen = scheduler.foresee(deadline, 0.0)
    refused = scheduler.reserve("small", 1, ready=0.0, deadline=deadline, now=0.0)
    assert foreseen == (refused if waiting else 0.0)


def test_nobody_is_refused_unread_who_may_bring_what_can_be_served():
    """Of several kinds that wait the one that would be done first decides, and nothing is foreseen of very many."""
    costs = known_costs((1, 1.0))
    costs.observe("large", 1, 9.0)
    scheduler = make_scheduler(costs=costs)
    for key in KEYS:
        scheduler.add(entry(1.0, key=key), 0.0)
    (small, large) = (scheduler.reserve(key, 1, ready=0.0, deadline=1.0, now=0.0) for key in KEYS)
    assert scheduler.foresee(1.0, 0.0) == small < large
    for number in range(8):
        scheduler.add(entry(1.0, key=number), 0.0)
    assert scheduler.foresee(1.0, 0.0) == 0.0


def test_two_devices_take_batches_from_one_queue():
    """A second device gets what the first has left, and admission counts on both."""
    scheduler = make_scheduler(lambda _key: 2, costs=known_costs((1, 1.0), (2, 2.0)), devices=2)
    entries = [entry(100.0) for _ in range(4)]
    for each in entries:
        scheduler.add(each, 0.0)
    batches = [scheduler.decide(0.0), scheduler.decide(0.0)]
    assert [batch.entries for batch in batches] == [entries[:2], entries[2:]]
    assert scheduler.reserve("small", 2, ready=0.0, deadline=5.0, now=0.0) == 0.0


def closed_loop(scheduler, callers, turns):
    """Let callers come back 1 ms after their answers; return the size of every batch."""
    sizes, now = [], 0.0
    coming = deque([0.001 * number for number in range(callers)])

    def come(until):
        while coming and coming[0] <= until:
            when = coming.popleft()
            scheduler.add(entry(when + 100.0), when)

    for _ in range(turns):
        come(now)
        while not isinstance(decision := scheduler.decide(now), Batch):
            events = [*([coming[0]] if coming else []), *([decision.until] if decision else [])]
            now = min(events)
            come(now)
        size = len(decision.entries)
        sizes.append(size)
        finish = now + 0.010 + 0.001 * size
        come(finish)
        now = finish
        scheduler.finished(decision, now)
        coming.extend([now + 0.001] * size)
    return sizes


def test_a_device_learns_to_wait_for_callers_who_come_back():
    """In a closed loop batches grow to all callers, where a device that never holds splits them for ever."""
    assert closed_loop(make_scheduler(lambda _key: 8), 4, 40)[-1] < 4
    assert closed_loop(make_scheduler(lambda _key: 8, max_delay_s=0.004), 4, 40)[-10:] == [4] * 10


def hold_for_four(costs, turnaround_s, *, max_delay_s=100.0, slack_s=90.0):
    """Of sixteen callers in a closed loop let twelve wait for the other four; return for how long they are held."""
    hold, now = Hold(max_delay_s, costs), 0.0
    for _ in range(50):
        hold.delivered("small", 16, now)
        for _ in range(16):
            hold.arrived("small", now + turnaround_s)
        now += 10.0
    hold.delivered("small", 16, now)
    for _ in range(12):
        hold.arrived("small", now)
    deadline = now + costs.seconds("small", 16) + slack_s
    return hold.until("small", 12, now=now, since=now, deadline=deadline) - now


@pytest.mark.parametrize(
    ("turnaround_s", "bounds", "held_s"),
    [(0.4, {}, 0.6), (0.8, {}, 0.0), (0.4, {"max_delay_s": 0.5}, 0.5), (0.4, {"slack_s": 0.3}, 0.0)],
)
def test_a_hold_ends_when_those_who_are_missing_should_be_back(turnaround_s, bounds, held_s):
    """Twelve wait for four, whose own batch would cost 1 s beyond their share: half as long again as they take.

    Not longer than that batch would, nor than the longest hold, and not at all where the earliest deadline leaves no
    time until they are back.
    """
    costs = known_costs((4, 3.0), (12, 7.0), (16, 9.0))
    assert hold_for_four(costs, turnaround_s, **bounds) == pytest.approx(held_s, abs=1e-3)


@pytest.mark.parametrize(("turnaround_s", "held_s"), [(2.0, 3.0), (3.0, 3.5), (4.0, 0.0)])
def test_a_hold_takes_at_most_half_as_long_as_the_batch_that_is_held(turnaround_s, held_s):
    """Where any batch takes 7 s, one is held for 3.5 s at most, and not at all for those who take longer."""
    costs = known_costs((4, 7.0), (12, 7.0), (16, 7.0))
    assert hold_for_four(costs, turnaround_s) == pytest.approx(held_s, abs=1e-3)


def test_one_caller_alone_never_waits():
    """There is no hold for a single caller, whatever was learnt from him."""
    scheduler = make_scheduler(lambda _key: 8, max_delay_s=0.004)
    now = 0.0
    for _ in range(50):
        scheduler.add(entry(now + 100.0), now)
        batch = scheduler.decide(now)
        assert len(batch.entries) == 1
        now += 0.010
        scheduler.finished(batch, now)
        now += 0.001


def test_closing_flushes_a_hold():
    """Where nobody else will come, nothing is waited for."""
    scheduler = make_scheduler(lambda _key: 8, max_delay_s=0.004)
    closed_loop(scheduler, 4, 40)
    scheduler.add(entry(2000.0), 1000.0)
    assert scheduler.decide(1000.0, flush=True).entries


class SchedulerMachine(RuleBasedStateMachine):
    """The scheduler beside a plain list of images, under any order of arrivals, departures and batches."""

    entries = Bundle("entries")

    def __init__(self):
        super().__init__()
        self.scheduler = make_scheduler()
        self.passed = (
            0  # batches that went before the least urgent class, as it was when more than one waited
        )
        self.last = 1
        self.now = 0.0
        self.waiting = []  # (entry, its deadline, the image's number in it), in the order of arrival

    @rule(
        target=entries,
        key=st.sampled_from(KEYS),
        delay=st.integers(0, 5),
        priority=st.integers(0, 1),
        size=st.integers(1, 2 * LIMIT),
    )
    def add(self, key, delay, priority, size):
        added = several(*range(size), deadline=self.now + delay, key=key, priority=priority)
        images = [(added, number) for number in range(size)]
        self.waiting += images
        # An image is known by its entry, wherever a part of that goes.
        added.payload = Pictures(images)
        self.scheduler.add(added, self.now)
        return added

    @rule(left=consumes(entries))
    def discard(self, left):
        assert self.scheduler.discard(left) == any(each is left for each, _ in self.waiting)
        self.waiting = [image for image in self.waiting if image[0] is not left]

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def decide(self):
        batch = self.scheduler.decide(self.now)
        if not self.waiting:
            assert batch is None
            return
        classes = {each.priority for each, _ in self.waiting}
        if len(classes) > 1:
            self.last = max(classes)
        sign = -1 if len(classes) > 1 and self.passed >= FAIR_SHARE - 1 else 1
        ranked = sorted(
            self.waiting, key=lambda image: (sign * image[0].priority, image[0].deadline)
        )  # stable: then arrival
        key = ranked[0][0].key
        alive = [image for image in ranked if image[0].key == key and image[0].deadline > self.now]
        taken = [image for each in batch.entries for image in each.payload]
        late = [image for each in batch.late for image in each.payload]
        assert (batch.key, batch.size, taken) == (key, len(taken), alive[:LIMIT])
        assert all(each.deadline <= self.now for each in batch.late)
        assert all(
            [number for _, number in each.payload] == list(range(each.first, each.first + each.size))
            for each in (*batch.entries, *batch.late)
        )
        if batch.entries:
            self.passed = self.passed + 1 if batch.entries[0].priority < self.last else 0
        for image in (*late, *taken):
            self.waiting.remove(image)  # fails for whoever is answered twice, or was never there

    @invariant()
    def nobody_is_lost(self):
        assert len(self.scheduler) == len(self.waiting)
        assert all(each.waiting for each, _ in self.waiting)

    def teardown(self):
        while self.waiting:
            self.decide()
        assert self.scheduler.decide(self.now) is None


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=30)


def known_kinds():
    costs = CostModel()
    for size, seconds in ((1, 0.5), (2, 0.6), (6, 2.0)):
        costs.observe("small", size, seconds)
        costs.observe("large", size, 2 * seconds)
    return costs


STEPS = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(KEYS),
        st.integers(1, 12),
        st.floats(0.01, 6.0),
        st.integers(0, 1),
    ),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.just("finish")),
    st.tuples(st.just("discard"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
    st.tuples(st.just("reserve"), st.sampled_from(KEYS), st.integers(1, 10), st.floats(0.01, 6.0)),
)


class Twins:
    """One scheduler that gets images together, and one that gets the same images one by one."""

    def __init__(self, most, max_delay_s):
        self.pair = [
            make_scheduler(lambda _: most, costs=known_kinds(), max_delay_s=max_delay_s) for _ in range(2)
        ]
        self.now = 0.0
        self.count = 0
        self.entries = []
        self.running = []

    def add(self, key, size, delay, priority):
        numbers = range(self.count, self.count + size)
        self.count += size
        given = {"deadline": self.now + delay, "key": key, "priority": priority}
        sides = [several(*numbers, **given)], [several(number, **given) for number in numbers]
        self.entries.append(sides)
        for scheduler, entries in zip(self.pair, sides, strict=True):
            for each in entries:
                scheduler.add(each, self.now)

    def decide(self, flush):
        one, other = (scheduler.decide(self.now, flush=flush) for scheduler in self.pair)
        assert type(one) is type(other)
        if isinstance(one, Batch):
            self.running.append((one, other))
            one, other = (
                (
                    batch.key,
                    batch.size,
                    *([image for each in part for image in each.payload] for part in parts),
                )
                for batch in (one, other)
                for parts in [(batch.entries, batch.late)]
            )
        assert one == other

    def finish(self):
        if self.running:
            for scheduler, batch in zip(self.pair, self.running.pop(0), strict=True):
                scheduler.finished(batch, self.now)

    def discard(self, number):
        if self.entries:
            sides = self.entries[number % len(self.entries)]
            for scheduler, entries in zip(self.pair, sides, strict=True):
                for each in entries:
                    scheduler.discard(each)

    def wait(self, seconds):
        self.now += seconds

    def reserve(self, key, count, delay):
        one, other = (
            each.reserve(key, count, ready=self.now, deadline=self.now + delay, now=self.now)
            for each in self.pair
        )
        assert one == pytest.approx(other)


def ahead(scheduler):
    """What waits or was promised room, by class, slot of time and kind."""
    return {rank: backlog._due for rank, backlog in scheduler._forecast._backlogs.items() if backlog}


@settings(max_examples=200)
@given(st.integers(1, 6), st.sampled_from([0.0, 0.3]), st.lists(STEPS, max_size=40))
def test_images_that_came_together_fare_as_they_would_one_by_one(most, max_delay_s, steps):
    """The same batches, the same images late, the same promises, under any load, deadlines, holds and departures."""
    twins = Twins(most, max_delay_s)
    for name, *arguments in steps:
        getattr(twins, name)(*arguments)
        one, other = twins.pair
        assert len(one) == len(other)
        assert ahead(one) == ahead(other)
        assert one._patience == pytest.approx(other._patience)
