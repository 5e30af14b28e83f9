"""The batcher: callers on one side, a device thread on the other, and a clock that only the test moves."""

import logging
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace

import pytest

from regard_server.batcher import Batcher
from regard_server.cost import CostModel
from regard_server.errors import (
    ComputationError,
    DeadlineExpiredError,
    OverloadedError,
    UnavailableError,
)
from regard_server.hold import Hold
from regard_server.scheduler import Scheduler
from regard_server.waiting import Entry

PATIENCE_S = 10.0
NEVER = float("inf")


class Clock:
    """A clock that stands still unless it is told to move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Device:
    """A stand-in for the network: doubles every payload, each batch waiting for its own permission."""

    def __init__(self):
        self.batches = []
        self.began = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.faults = {}

    def run(self, key, payloads):
        number = len(self.batches)
        self.batches.append((key, list(payloads)))
        self.began.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        if number in self.faults:
            raise self.faults[number]
        return [payload * 2 for payload in payloads]

    def wait_until_busy(self):
        assert self.began.acquire(timeout=PATIENCE_S)

    def permit(self, batches=1):
        self.permits.release(batches)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def batcher(clock):
    def deliver(outcomes):
        for outcome in outcomes:
            outcome.entry.owner.set_result(outcome)

    costs = CostModel()
    return Batcher(
        Scheduler(lambda _key: 4, costs, Hold(0.0, costs)),
        deliver,
        clock=clock,
        logger=logging.getLogger("batcher"),
    )


@pytest.fixture
def serving(batcher, device):
    """The device thread, closed and ended at the end."""
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(batcher.serve, device.run)
        yield served
        batcher.close()
        device.permit(100)
        served.result(PATIENCE_S)


class Numbers(list):
    """The payload of an entry of several images."""

    def divide(self, count):
        return Numbers(self[:count]), Numbers(self[count:])

    def __mul__(self, by):
        return [number * by for number in self]


def submit(batcher, payload, *, key="key", deadline=NEVER, arrived=100.0):
    entry = Entry(key=key, payload=payload, owner=Future(), deadline=deadline, arrived=arrived)
    batcher.submit([entry])
    return entry


def outcome(entry):
    return entry.owner.result(PATIENCE_S)


@pytest.mark.usefixtures("serving")
def test_one_caller_alone_does_not_wait_for_others(batcher, device):
    """A lone entry is dispatched although no clock ever moves."""
    device.permit()
    answer = outcome(submit(batcher, 3))
    assert (answer.value, answer.batch_size) == (6, 1)


@pytest.mark.usefixtures("serving")
def test_those_who_come_while_the_device_is_busy_ride_together(batcher, device):
    """Batches are bound late: a busy device's arrivals become one batch the moment it is free."""
    first = submit(batcher, 1)
    device.wait_until_busy()
    others = [submit(batcher, payload) for payload in (2, 3, 4)]
    assert batcher.waiting == 3
    device.permit(2)
    assert [outcome(each).value for each in (first, *others)] == [2, 4, 6, 8]
    assert [payloads for _, payloads in device.batches] == [[1], [2, 3, 4]]
    assert [outcome(each).batch_size for each in others] == [3, 3, 3]


@pytest.mark.usefixtures("serving")
def test_no_batch_is_larger_than_the_limit(batcher, device):
    """What a batch has no room for rides in the next."""
    submit(batcher, 0)
    device.wait_until_busy()
    others = [submit(batcher, payload) for payload in range(6)]
    device.permit(3)
    wait([each.owner for each in others], PATIENCE_S)
    assert [len(payloads) for _, payloads in device.batches] == [1, 4, 2]


@pytest.mark.usefixtures("serving")
def test_images_that_came_together_are_answered_in_as_many_parts_as_they_rode_in(batcher, device):
    """Each outcome says which of them it is about, and batches count images."""
    submit(batcher, 0)
    device.wait_until_busy()
    answers = []
    owner = SimpleNamespace(set_result=answers.append)
    batcher.submit([Entry("key", Numbers(range(6)), owner, NEVER, arrived=100.0, size=6)])
    assert batcher.waiting == 6
    last = submit(batcher, 7)
    device.permit(3)
    assert outcome(last).batch_size == 3
    assert [(each.first, each.size, each.value, each.batch_size) for each in answers] == [
        (0, 4, [0, 2, 4, 6], 4),
        (4, 2, [8, 10], 3),
    ]


def test_images_that_came_together_wake_a_device_for_each_of_their_batches(batcher):
    """Two devices that wait take a batch each, though only one entry came: neither is done before both have begun."""
    together = threading.Barrier(2, timeout=PATIENCE_S)

    def run(_key, payloads):
        together.wait()
        return payloads  # of one entry each

    answers = queue.Queue()
    with ThreadPoolExecutor(2) as devices:
        served = [devices.submit(batcher.serve, run, number) for number in range(2)]
        try:
            give_up = time.monotonic() + PATIENCE_S
            while len(batcher._changed._waiters) < 2:
                assert time.monotonic() < give_up, "the devices do not wait"
                time.sleep(0.001)
            owner = SimpleNamespace(set_result=answers.put)
            batcher.submit([Entry("key", Numbers(range(8)), owner, NEVER, size=8)])
            values = [answers.get(timeout=PATIENCE_S).value for _ in range(2)]
            assert sorted(values) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        finally:
            batcher.close()
        for each in served:
            each.result(PATIENCE_S)


@pytest.mark.usefixtures("serving")
def test_a_run_that_raises_fails_its_own_batch_only(batcher, device, caplog):
    """The batch's callers get a ComputationError without details, and the next batch is served."""
    device.faults[0] = RuntimeError("a secret of the network")
    device.permit(2)
    answer = outcome(submit(batcher, 1)).value
    assert isinstance(answer, ComputationError)
    assert "secret" not in answer.message
    assert "a secret of the network" in caplog.text
    assert outcome(submit(batcher, 2)).value == 4


@pytest.mark.usefixtures("serving")
def test_an_expired_entry_is_never_run(batcher, device, clock):
    """Whoever waits past his deadline is answered DeadlineExpiredError, with how long he waited."""
    submit(batcher, 0)
    device.wait_until_busy()
    doomed = submit(batcher, 1, deadline=105.0)
    clock.now = 106.0
    device.permit(2)
    answer = outcome(doomed)
    assert isinstance(answer.value, DeadlineExpiredError)
    assert "after 6.000 s" in answer.value.message
    assert (answer.batch_size, answer.queue_s) == (0, 6.0)
    assert doomed.payload is None
    outcome(submit(batcher, 2))
    assert [payloads for _, payloads in device.batches] == [[0], [2]]


@pytest.mark.usefixtures("serving")
def test_who_left_is_not_run(batcher, device):
    """A discarded entry is gone before the next batch is formed."""
    submit(batcher, 0)
    device.wait_until_busy()
    left, stays = submit(batcher, 1), submit(batcher, 2)
    answer = left.owner
    assert batcher.discard(left)
    assert left.owner is None
    device.permit(2)
    outcome(stays)
    assert device.batches[1] == ("key", [2])
    assert not answer.done()


@pytest.mark.usefixtures("serving")
def test_outcomes_say_where_the_time_went(batcher, device, clock):
    """Queueing ends and computing begins when the batch is dispatched."""
    submit(batcher, 0)
    device.wait_until_busy()
    entry = submit(batcher, 1, arrived=clock.now)
    clock.now += 2.0
    device.permit()
    device.wait_until_busy()
    clock.now += 0.5
    device.permit()
    assert (outcome(entry).queue_s, outcome(entry).compute_s) == (2.0, 0.5)
    assert entry.payload is None


def test_closing_serves_those_who_wait_and_refuses_others(batcher, device, serving):
    """After `close` the queue is emptied by serving it, newcomers are refused, and `serve` returns."""
    first = submit(batcher, 0)
    device.wait_until_busy()
    waiting = submit(batcher, 1)
    batcher.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        submit(batcher, 2)
    device.permit(2)
    assert [outcome(first).value, outcome(waiting).value] == [0, 2]
    serving.result(PATIENCE_S)
    assert batcher.waiting == 0


def test_closing_an_idle_batcher_wakes_its_device(batcher, serving):
    """A device that waits for work returns as soon as there will be none."""
    batcher.close()
    serving.result(PATIENCE_S)


@pytest.mark.usefixtures("serving")
def test_many_threads_lose_nothing_and_get_nothing_twice(batcher, device):
    """Entries of concurrent submitters are answered exactly once, each with its own value."""
    device.permit(1000)
    with ThreadPoolExecutor(8) as callers:
        entries = list(callers.map(lambda payload: submit(batcher, payload), range(500)))
    assert [outcome(each).value for each in entries] == [payload * 2 for payload in range(500)]
    assert sorted(payload for _, payloads in device.batches for payload in payloads) == list(range(500))


def test_a_run_that_ends_the_thread_leaves_nobody_waiting(batcher, device):
    """What is no ordinary exception ends `serve`, after its batch was answered UnavailableError."""
    device.faults[0] = SystemExit("the driver is gone")
    device.permit()
    entry = submit(batcher, 1)
    with pytest.raises(SystemExit):
        batcher.serve(device.run)
    assert isinstance(outcome(entry).value, UnavailableError)


def test_abandoning_answers_whoever_waits(batcher):
    """Without a device everybody who waits is told at once, and nobody else is let in."""
    entries = [submit(batcher, payload) for payload in range(10)]
    batcher.abandon()
    assert all(isinstance(outcome(entry).value, UnavailableError) for entry in entries)
    assert batcher.waiting == 0
    with pytest.raises(UnavailableError):
        submit(batcher, 0)


def test_it_is_said_for_a_second_that_somebody_was_refused(batcher, clock):
    """Whoever would be late is refused, and that others may be, too, is known for a while and then forgotten."""
    batcher.learn("key", 1, 1.0)
    submit(batcher, 1)
    assert not batcher.refusing
    batcher.reserve("key", 1, ready=clock.now, deadline=clock.now + 100)
    assert not batcher.refusing
    with pytest.raises(OverloadedError):
        batcher.reserve("key", 1, ready=clock.now, deadline=clock.now + 0.5)
    assert batcher.refusing
    clock.now += 1.0
    assert not batcher.refusing
    with pytest.raises(OverloadedError):
        batcher.foresee(clock.now + 0.5)
    assert batcher.refusing
