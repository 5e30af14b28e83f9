"""What the scheduler promises, under any order of arrivals, departures, failures, batches and jumps of the clock."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from regard_server.backlog import slot_of
from regard_server.cost import CostModel
from regard_server.hold import Hold
from regard_server.scheduler import Batch, Scheduler
from regard_server.turns import FAIR_SHARE
from regard_server.waiting import Entry

LIMIT = 4
MAX_DELAY_S = 0.01
COSTS = {"small": (0.01, 0.002), "large": (0.1, 0.05), "maps": (0.03, 0.03)}
TIMES_S = st.sampled_from([0.005, 0.05, 0.3, 1.0, 6.0, 60.0])
DEAREST_S = max(fixed_s + each_s * LIMIT for fixed_s, each_s in COSTS.values())
# Rounding, of sums of times.
NEARLY = 1e-9


def cost_s(key, size):
    fixed_s, each_s = COSTS[key]
    return fixed_s + each_s * size


class Pictures(tuple):
    __slots__ = ()

    def divide(self, count):
        return Pictures(self[:count]), Pictures(self[count:])


class PromisesMachine(RuleBasedStateMachine):
    """A scheduler that knows every cost, one or two devices, and a record of what it was told."""

    @initialize(devices=st.integers(1, 2))
    def begin(self, devices):
        costs = CostModel()
        for key in COSTS:
            for size in range(1, LIMIT + 1):
                costs.observe(key, size, cost_s(key, size))
        self.scheduler = Scheduler(lambda _: LIMIT, costs, Hold(MAX_DELAY_S, costs), devices=devices)
        self.devices = devices
        self.now = 100.0
        self.promised = []
        self.entries = []
        self.running = {}  # by device: the batch, and when it is done
        self.honest = True  # no batch has taken longer than it should
        self.passed_over_s = 0.0  # what batches took since the least urgent class that waits had one

    @rule(key=st.sampled_from([*COSTS]), count=st.integers(1, 6), given_s=TIMES_S, priority=st.integers(0, 1))
    def ask(self, key, count, given_s, priority):
        deadline = self.now + given_s
        alone = not (self.running or self.promised or len(self.scheduler))
        late_s = self.scheduler.reserve(
            key, count, ready=self.now, deadline=deadline, now=self.now, priority=priority
        )
        if late_s:
            assert late_s > 0
            assert not alone  # somebody has to try, if an estimate is to mend
        else:
            self.promised.append((key, count, deadline, priority))

    @precondition(lambda self: self.promised)
    @rule(which=st.integers(0, 99))
    def bring(self, which):
        key, count, deadline, priority = self.promised.pop(which % len(self.promised))
        entry = Entry(key, Pictures(range(count)), None, deadline, priority, self.now, count, promised=True)
        self.scheduler.add(entry, self.now)
        self.entries.append(entry)

    @precondition(lambda self: self.promised)
    @rule(which=st.integers(0, 99))
    def break_promise(self, which):
        key, count, deadline, priority = self.promised.pop(which % len(self.promised))
        self.scheduler.release(key, count, deadline=deadline, priority=priority)

    @precondition(lambda self: self.entries)
    @rule(which=st.integers(0, 99))
    def leave(self, which):
        entry = self.entries.pop(which % len(self.entries))
        assert self.scheduler.discard(entry)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.2, 2.0, 90.0]))
    def jump(self, seconds):
        self.now += seconds

    @rule(flush=st.booleans())
    def work(self, flush):
        device = next((each for each in range(self.devices) if each not in self.running), None)
        if device is not None:
            self.decide(device, flush=flush)

    def decide(self, device, *, flush):
        waiting = {entry.priority for entry in self.entries if entry.waiting}
        decision = self.scheduler.decide(self.now, device=device, flush=flush)
        if not isinstance(decision, Batch):
            assert (decision is None) == (not waiting)
            assert decision is None or self.now < decision.until <= self.now + MAX_DELAY_S + NEARLY
            return decision
        assert decision.size == sum(entry.size for entry in decision.entries) <= LIMIT
        assert {entry.key for entry in (*decision.entries, *decision.late)} <= {decision.key}
        if decision.entries:
            done = self.now + cost_s(decision.key, decision.size)
            self.running[device] = decision, done
            assert all(entry.deadline > self.now for entry in decision.entries)
            last = decision.size == 1 and not len(self.scheduler)  # may try, as nobody waits behind
            if self.honest and not last:  # nothing else is begun that would end late
                assert done <= min(entry.deadline for entry in decision.entries) + NEARLY
            served = {entry.priority for entry in decision.entries}
            seconds = cost_s(decision.key, decision.size)
            self.passed_over_s = 0.0 if max(waiting) in served else self.passed_over_s + seconds
            assert not self.honest or self.passed_over_s <= FAIR_SHARE * DEAREST_S + NEARLY
        self.entries = [entry for entry in self.entries if entry.waiting]
        return decision

    @precondition(lambda self: self.running)
    @rule(slower_s=st.sampled_from([0.0, 0.0, 0.0, 0.5]))
    def finish(self, slower_s):
        device, (batch, done) = min(self.running.items(), key=lambda item: item[1][1])
        del self.running[device]
        self.honest = self.honest and not slower_s and self.now <= done
        self.now = max(self.now, done + slower_s)
        self.scheduler.finished(batch, self.now)  # a batch that failed is told likewise

    @invariant()
    def what_is_ahead_is_what_waits_and_what_was_promised(self):
        expected = Counter()
        for key, count, deadline, priority in self.promised:
            expected[priority, slot_of(deadline), key] += count
        for entry in self.entries:
            expected[entry.priority, slot_of(entry.deadline), entry.key] += entry.size
        found = {
            (priority, *due): count
            for priority, backlog in self.scheduler._forecast._backlogs.items()
            for due, count in backlog._due.items()
        }
        assert found == expected
        assert len(self.scheduler) == sum(entry.size for entry in self.entries)
        assert len(self.scheduler._running) == len(self.running)

    def teardown(self):
        while self.promised:
            self.break_promise(0)
        while self.running:
            self.finish(0.0)
        while self.decide(0, flush=True):
            if self.running:
                self.finish(0.0)
        scheduler = self.scheduler
        assert not any((scheduler._buckets, scheduler._running, scheduler._forecast, len(scheduler)))


TestPromisesMachine = PromisesMachine.TestCase
TestPromisesMachine.settings = settings(max_examples=80, stateful_step_count=40)
