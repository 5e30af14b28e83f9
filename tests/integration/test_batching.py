"""Dynamic batching, deadlines and cancellation, over real channels with the device held at a gate."""

import contextlib
import math
import threading
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server import app, batcher


@pytest.fixture
def served(serve):
    return serve(max_batch=8)


@pytest.fixture
def busy(served, pictures):
    """The device holds a batch of one; the future of its caller."""
    served.gate.hold()
    future = served.begin(*pictures(1))
    served.gate.until(1)
    return future


def sizes(futures):
    """Return the sizes of the batches that callers rode in."""
    return [result.timings.batch_size for future in futures for result in future.result().results]


def test_concurrent_callers_ride_together(served, busy, pictures, vectors):
    """Callers who come while the device is busy share one batch, and get the vectors they would get alone."""
    images = pictures(8)
    futures = [served.begin(image) for image in images]
    served.queue.until(8)
    served.gate.open()
    assert sizes([busy, *futures]) == [1] + [8] * 8
    assert served.gate.batches == [1, 8]
    together = np.concatenate([vectors(future.result()) for future in futures])
    np.testing.assert_allclose(together, vectors(served.extract(*images)), atol=1e-5)
    assert served.metric("regard_batch_size_bucket", model="resnet_tiny", le="1.0") == 1


def test_batches_are_no_larger_than_the_setting(served, busy, pictures):
    """Twenty images in one request are run in batches of eight at most."""
    future = served.begin(*pictures(20))
    served.queue.until(20)
    served.gate.open()
    assert sorted(set(sizes([future]))) == [4, 8]
    assert served.gate.batches == [1, 8, 8, 4]
    assert busy.result().results


def test_interactive_callers_overtake_bulk(served, busy, pictures):
    """Bulk is served from the room that interactive requests leave."""
    bulk = served.begin(*pictures(8), priority=pb.PRIORITY_BULK)
    served.queue.until(8)
    urgent = served.begin(*pictures(4))
    served.queue.until(12)
    served.gate.open()
    assert sizes([urgent]) == [8] * 4
    assert sorted(sizes([bulk])) == [4] * 4 + [8] * 4
    assert busy.result().results


def test_the_earliest_deadline_rides_first(served, busy, pictures):
    """Among equals the caller with the least time left goes first."""
    patient = served.begin(*pictures(8), timeout=600)
    served.queue.until(8)
    hasty = served.begin(*pictures(8), timeout=60)
    served.queue.until(16)
    served.gate.open()
    computed = [future.result().results[0].timings for future in (hasty, patient)]
    # The patient one came first and yet was dispatched last.
    assert computed[1].queue_ms > computed[0].queue_ms
    assert busy.result().results


def test_different_wishes_ride_together(served, busy, pictures):
    """Batchmates may ask for different vectors; maps ride apart because they cost more."""
    first = served.begin(*pictures(1), outputs=["logits"])
    second = served.begin(*pictures(1), outputs=["embedding", "logits"])
    maps = served.begin(*pictures(1), outputs=["layer1"])
    served.queue.until(3)
    served.gate.open()
    assert sizes([first, second, maps]) == [2, 2, 1]
    names = [
        [output.name for output in future.result().results[0].features.outputs] for future in (first, second)
    ]
    assert names == [["logits"], ["embedding", "logits"]]
    assert busy.result().results


def test_an_expired_caller_is_answered_and_never_run(served, busy, pictures):
    """A deadline that passes in the queue is DEADLINE_EXCEEDED for its caller, and no dead work for the device."""
    served.expire(lambda: len(served.queue) >= 3, *pictures(3))
    served.journal.until("Extract ", 1)
    served.queue.until(0)
    served.gate.open()
    assert busy.result().results
    assert served.extract(*pictures(1)).results
    assert served.gate.batches == [1, 1]
    served.assert_empty()


def test_a_request_that_is_dropped_is_late_as_a_whole(served, busy, pictures, reason):
    """Where no image could be finished in time, that is the call's DEADLINE_EXCEEDED, not every result's."""
    future = served.begin(*pictures(2), timeout=60)
    served.queue.until(2)
    behind = served.begin(*pictures(1), timeout=70)  # the last of all may always try
    served.queue.until(3)
    served.queue.expect_slow_batches(1, 2)
    served.gate.open()
    with pytest.raises(grpc.RpcError) as error:
        future.result()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error.value) == "DEADLINE_EXPIRED"
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="late") == 2
    assert behind.result().results
    assert busy.result().results
    served.assert_empty()


@pytest.fixture
def swamped(served, busy, pictures):
    """A server with more to do than anybody would wait for; the futures of those inside."""
    waiting = served.begin(*pictures(1))
    served.queue.until(1)
    served.queue.expect_slow_batches(1, 2)
    return busy, waiting


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_who_cannot_be_answered_in_time_is_refused_at_once(served, swamped, pictures, reason, size):
    """He is told why, when to come again, and what his request was called, however large it is."""
    name = (("x-request-id", "mine"),)
    with pytest.raises(grpc.RpcError) as error:
        served.extract(pictures(1)[0], pb.Image(encoded=bytes(size)), metadata=name, timeout=60)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error.value) == "OVERLOADED"
    assert "s after the deadline" in error.value.details()
    trailers = dict(error.value.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) > 0
    assert trailers["x-request-id"] == "mine"
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="shed") >= 1
    assert served.metric("regard_requests_total", method="Extract", code="RESOURCE_EXHAUSTED") == 1
    served.journal.until("Extract RESOURCE_EXHAUSTED")
    assert served.check() == "SERVING"
    served.gate.open()
    assert all(future.result().results for future in swamped)
    served.assert_empty()


def test_what_would_be_refused_in_any_case_is_not_read(served, frontend, swamped, pictures, monkeypatch):
    """Once somebody was refused, and where deadlines are known before messages, no request is not even read."""
    monkeypatch.setattr(batcher, "_LATELY_S", math.inf)
    call = served.channel.unary_unary("/regard.v1.FeatureService/Extract")

    def code_of_no_request():
        with pytest.raises(grpc.RpcError) as error:
            call(b"no message", timeout=60, metadata=[("x-request-id", "mine")])
        return error.value.code()

    assert code_of_no_request() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.begin(*pictures(1), timeout=60).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    unread = code_of_no_request() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unread == (frontend == "direct")
    if unread:
        assert served.journal.names[-1] == "mine"
        assert_no_loop_is_woken(served.server._front_end, code_of_no_request)
    served.gate.open()
    assert all(future.result().results for future in swamped)


def assert_no_loop_is_woken(front_end, code_of_no_request):
    """Check that a call that comes in a quiet moment is refused by the thread that waited for it."""
    board = front_end._board
    foresight, threads = board._foresight, []

    def refuse(*call):
        threads.append(threading.current_thread().name)
        return foresight(*call)

    board._foresight = refuse
    while "grpc" not in threads:  # whatever comes before the event loop has settled the last call is its own
        assert code_of_no_request() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_is_remembered_is_answered_whatever_waits(serve, pictures):
    """A device that has too much to do is not needed for it; what is not remembered is refused, also beside it."""
    served = serve(cache_bytes=1 << 20)
    known, *others = pictures(4)
    expected = served.extract(known).results[0]
    before = len(served.gate.batches)
    served.gate.hold()
    inside = [served.begin(others[0])]
    served.gate.until(before + 1)
    inside.append(served.begin(others[1]))
    served.queue.until(1)
    served.queue.expect_slow_batches(1, 2)
    served.queue.promise_one()
    for asked in (others[2:], [known, others[2]]):
        assert served.begin(*asked, timeout=60).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.extract(known, timeout=60).results[0].features == expected.features
    two = served.extract(known, known, timeout=60)
    assert [each.features for each in two.results] == [expected.features] * 2
    assert served.metric("regard_reuse_total", model="resnet_tiny", source="cache") == 3
    served.queue.take_one_promise_back()
    served.gate.open()
    assert all(future.result().results for future in inside)
    served.assert_empty()


def test_beside_what_is_remembered_there_is_room_for_one_more(serve, pictures):
    """Of two pictures that there is no room for together, the one that has to be computed has it alone, and no more."""
    served = serve(cache_bytes=1 << 20)
    known, running, unknown = pictures(3)
    expected = served.extract(known).results[0]
    before = len(served.gate.batches)
    served.gate.hold()
    inside = served.begin(running)
    served.gate.until(before + 1)
    served.queue.expect_one_slow_size(2)
    mixed = served.begin(known, unknown, timeout=60)
    served.queue.until(1)
    served.gate.open()
    results = mixed.result().results
    assert results[0].features == expected.features
    assert [each.timings.batch_size for each in results] == [0, 1]
    assert inside.result().results
    served.assert_empty()


def test_images_that_were_answered_in_time_are_not_lost_with_those_that_were_not(served, busy, pictures):
    """Of a request that only part of is met, that part is answered, and the rest is late, each by itself."""
    future = served.begin(*pictures(9), timeout=60)
    served.queue.until(9)
    served.gate.step()
    served.gate.until(2)  # eight of them run, one waits, and another caller beside it
    another = served.begin(*pictures(1), timeout=70)
    served.queue.until(2)
    served.queue.expect_slow_batches(1, 2, 8)
    served.gate.open()
    results = future.result().results
    assert [result.WhichOneof("outcome") for result in results] == ["features"] * 8 + ["error"]
    assert results[8].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="late") == 1
    assert another.result().results
    assert busy.result().results
    served.assert_empty()


def test_what_is_ready_after_its_deadline_is_late(serve, pictures, reason, monkeypatch):
    """Whoever is answered when he is gone was not served, though all that he asked for was computed."""
    late = threading.Event()
    monkeypatch.setattr(
        app, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 30.0 * late.is_set())
    )
    served = serve(default_timeout_s=30.0)
    # Called when a batch has come back, before its callers hear of it.
    monkeypatch.setattr(served.server.metrics.embeddings, "offer", lambda *_: late.set())
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(2), timeout=None)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error.value) == "DEADLINE_EXPIRED"
    ends = [served.metric("regard_items_total", model="resnet_tiny", outcome=each) for each in ("ok", "late")]
    assert ends == [0, 2]
    assert served.metric("regard_requests_total", method="Extract", code="DEADLINE_EXCEEDED") == 1
    served.assert_empty()


def test_the_answer_about_many_images_leaves_sooner(serve, pictures, monkeypatch):
    """Its way takes longer: it is encoded, sent and read."""
    served = serve(default_timeout_s=2.0)
    pipeline = served.server._pipeline
    limits = []

    def note(way):
        def noted(request, *others):
            limits.append(request.deadline - request.arrived)
            return way(request, *others)

        return noted

    for name in ("begin", "extract"):  # by whether the front end needs a coroutine
        monkeypatch.setattr(pipeline, name, note(getattr(pipeline, name)))
    for count in (1, 100):
        with contextlib.suppress(grpc.RpcError):  # on a slow machine they may be late
            served.extract(*pictures(count), timeout=None)
    assert limits[0] - limits[1] == pytest.approx(99 * 10e-6, abs=1e-9)


def test_the_servers_own_deadline_holds_for_those_without_one(serve, pictures, reason):
    """Nobody waits for ever: a caller without a deadline gets the server's default."""
    served = serve(default_timeout_s=0.2)
    served.gate.hold()
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(2), timeout=None)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error.value) == "DEADLINE_EXPIRED"
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="late") == 2
    served.assert_empty()


def test_who_leaves_the_queue_is_not_run(served, busy, pictures):
    """A cancelled caller's images are gone before the next batch is formed; those beside them are served."""
    leaving = [served.begin(*pictures(2)) for _ in range(3)]
    served.queue.until(6)
    staying = served.begin(*pictures(1))
    served.queue.until(7)
    for future in leaving:
        future.cancel()
    served.queue.until(1)
    served.gate.open()
    assert sizes([busy, staying]) == [1, 1]
    served.journal.until("Extract CANCELLED", 3)
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="cancelled") == 6
    served.assert_empty()


def test_who_leaves_while_his_batch_runs_disturbs_nobody(served, busy, pictures, vectors):
    """A caller who goes away in the middle of a run costs his batchmates nothing."""
    images = pictures(2)
    leaving, staying = (served.begin(image) for image in images)
    served.queue.until(2)
    served.gate.step()
    assert busy.result().results
    served.gate.until(2)  # their batch has been formed and is held
    leaving.cancel()
    served.journal.until("Extract CANCELLED")
    served.gate.open()
    np.testing.assert_allclose(vectors(staying.result()), vectors(served.extract(images[1])), atol=1e-5)
    assert served.gate.batches == [1, 2, 1]
    served.assert_empty()


def test_a_batch_that_fails_is_its_own_affair(served, busy, pictures, reason):
    """A run that raises is INTERNAL for its batch, without details; the next batch is served."""

    def fail(_key, _batch):
        raise RuntimeError("a secret of the network")

    doomed = served.begin(*pictures(2))
    served.queue.until(2)
    served.gate.fault = fail
    served.gate.open()
    for future in (busy, doomed):
        for result in future.result().results:
            assert (result.error.code, reason(result.error)) == (13, "COMPUTATION_FAILED")
            assert "secret" not in result.error.message
    served.gate.fault = lambda _key, _batch: None
    assert sizes([served.begin(*pictures(1))]) == [1]
    assert served.journal.count("failed") == 2
    served.assert_empty()


def tensor_of(side):
    return pb.Image(tensor=tensors.from_array(np.zeros((3, side, side), np.float32)))


def test_a_kind_that_was_never_run_is_not_admitted_blindly(served, busy, reason):
    """A tensor of a new shape is taken to cost by its pixels what the model's other batches do."""
    served.queue.expect_slow_batches(1)
    with pytest.raises(grpc.RpcError) as error:
        served.extract(tensor_of(64), timeout=60)
    assert reason(error.value) == "OVERLOADED"
    served.gate.open()
    assert busy.result().results


def test_a_tensor_that_will_be_refused_costs_the_device_nothing(served, busy, reason):
    """It is told what is wrong with it, not that its absurd shape would take a year."""
    served.queue.expect_slow_batches(1)
    image = tensor_of(64)
    image.tensor.shape[:] = [3, 1 << 30, 1 << 30]
    (result,) = served.extract(image).results
    assert reason(result.error) == "IMAGE_TOO_LARGE"
    served.gate.open()
    assert busy.result().results
