"""The policies of others: each does what its source was read to do, by the numbers."""

import pytest
from policies import OUT_OF_THE_BOX, BentoMl, Item, Mosec, Peer, Tei, TfServing, Triton, Window, tuned

COSTS = {1: 0.010, 4: 0.040}
MOST = 4


def items(count, *, deadline=1.0, every_s=0.0, priority=0):
    """Return requests that arrive one after the other."""
    return [
        Item(number * every_s, number * every_s + deadline, priority=priority, arrived=number * every_s)
        for number in range(count)
    ]


def put(queue, waiting):
    """Let them wait; return who is turned away."""
    return [turned for item in waiting for turned in queue.put(item, item.arrived)]


def test_a_window_is_waited_for_unless_the_batch_is_full():
    """The first of a batch that is not full waits for the window."""
    queue = Window(MOST, COSTS, window_s=0.004)
    first, *rest = items(MOST)
    put(queue, [first])
    assert queue.take(0.0).until == 0.004
    put(queue, rest)
    assert queue.take(0.0).items == [first, *rest]


def test_triton_rejects_whoever_has_waited_past_his_timeout():
    """Whoever has waited for longer than the queue's timeout, or his own, is dropped, and the cancelled are gone."""
    queue = Triton(MOST, COSTS, timeout_s=0.5, own=True)
    old, hasty, left, kept = (Item(0.0, deadline) for deadline in (9.0, 0.2, 9.0, 9.0))
    put(queue, [old, hasty, left])
    left.settled = True
    assert [*queue.put(kept, 0.3)] == []
    decision = queue.take(0.6)
    assert decision.items == [kept]
    assert decision.dropped == [old, hasty]


def test_triton_serves_a_more_urgent_level_first():
    """Where callers send their priority, later ones of a more urgent level ride before earlier ones."""
    queue = Triton(MOST, COSTS, own=True)
    later, urgent = items(MOST, priority=1), items(2)
    put(queue, [*later, *urgent])
    assert queue.take(0.0).items == [*urgent, *later[:2]]
    assert queue.take(0.0).items == later[2:]


def test_tf_serving_binds_early_and_counts_batches():
    """Arrivals are bound to a batch at once; beyond so many batches they are turned away."""
    queue = TfServing(MOST, COSTS, batches=2)
    everybody = items(9)
    assert put(queue, everybody) == [everybody[8]]
    assert queue.take(0.0).items == everybody[:4]


def test_tf_serving_runs_a_batch_in_which_one_is_still_in_time():
    """A batch is skipped when all in it are late, and runs with its dead otherwise."""
    queue = TfServing(MOST, COSTS)
    late, mixed = items(4, deadline=0.1), items(4, deadline=0.1)
    mixed[3].deadline = 9.0
    put(queue, [*late, *mixed])
    decision = queue.take(1.0)
    assert decision.items == mixed
    assert decision.dropped == late


def test_tei_forms_one_batch_ahead_however_small():
    """While a batch runs, the first to come is bound to a batch of its own, which goes next."""
    queue = Tei(MOST, COSTS)
    first, second, third = items(3)
    put(queue, [first])
    assert queue.take(0.0).items == [first]
    put(queue, [second, third])
    queue.done([first], 0.010)
    assert queue.take(0.010).items == [second]


def test_tei_holds_a_permit_until_the_answer():
    """Nobody is let in beyond the permits, and an answer or a caller who leaves gives one back."""
    queue = Tei(MOST, COSTS, permits=2)
    first, second, third = items(3)
    assert [queue.admit(item) for item in (first, second, third)] == [True, True, False]
    put(queue, [first, second])
    queue.take(0.0)
    queue.done([first], 0.010)
    assert queue.admit(third)
    assert not queue.admit(second)
    queue.left(second)
    assert queue.admit(second)


def test_mosec_opens_its_window_when_the_worker_asks():
    """The window counts from when the device is free; who is past the service's timeout has taken a place in vain."""
    queue = Mosec(MOST, COSTS, window_s=0.002, timeout_s=0.5, limit=4)
    old, *young = everybody = items(5)
    for item in young:
        item.arrived = 0.9
    assert put(queue, everybody) == [young[3]]
    queue.done([], 1.0)
    decision = queue.take(1.0)
    assert decision.items == young[:3]
    assert decision.dropped == [old]
    put(queue, items(1, deadline=9.0))
    queue.waiting[0].arrived = 1.1
    queue.done([], 1.2)
    assert queue.take(1.2).until == pytest.approx(1.202)


def test_bentoml_cancels_the_oldest_and_serves_the_newest_first():
    """The oldest is cancelled when all who wait would take him past the objective; a batch begins with the newest."""
    queue = BentoMl(MOST, COSTS, max_latency_s=0.065)
    everybody = items(7)
    assert put(queue, everybody) == everybody[:1]  # 7 · 10 ms are more than 65
    assert queue.take(0.0).items == everybody[:2:-1]
    assert queue.take(0.046).dropped == [
        everybody[1]
    ]  # 46 + 20 ms of the oldest of two; the last one may stay


@pytest.mark.parametrize("name", OUT_OF_THE_BOX)
def test_nobody_is_lost(name):
    """Whoever was let in rides once, or is turned away, out of the box and tuned, with two models."""
    tight = {model: tuned(name, MOST, COSTS, wait_s=0.1, deadline_s=0.2) for model in ("small", "large")}
    loose = {model: OUT_OF_THE_BOX[name](MOST, COSTS) for model in ("small", "large")}
    for policy in (Peer(loose), Peer(tight)):
        everybody = items(40, every_s=0.001)
        for item, model in zip(everybody, ["small", "large"] * 20, strict=True):
            item.model = model
        ended = []
        for item in everybody:
            admitted = policy.admit(item, item.sent, item.sent)
            ended += policy.arrive(item, item.sent) if admitted else [item]
        now = 0.040
        while (
            not (decision := policy.free(now)).items == decision.dropped == [] or decision.until is not None
        ):
            ended += [*decision.items, *decision.dropped]
            if decision.items:
                assert len({item.model for item in decision.items}) == 1
                policy.done(decision.items, now)
            now = decision.until or now + 0.001
        assert sorted(map(id, ended)) == sorted(map(id, everybody))


def test_an_unknown_policy_names_the_known_ones():
    """A name that is none is answered with those that there are."""
    with pytest.raises(ValueError, match="there is no clipper; there are fifo window, triton"):
        tuned("clipper", MOST, COSTS, wait_s=1.0, deadline_s=1.0)
