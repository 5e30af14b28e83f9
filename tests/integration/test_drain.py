"""Draining: not ready first, then the calls in flight, then the end."""

import asyncio
import dataclasses
import threading
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2

from regard_proto.v1 import features_pb2 as pb

LONG_S = 1000.0
"""A drain that took this long would be a hang: only the last call's end may end it."""


def drain(served, timeout_s=LONG_S, **options):
    """Begin to drain; return the future of its end."""
    return asyncio.run_coroutine_threadsafe(served.server.drain(timeout_s, **options), served.loop)


@pytest.fixture
def states():
    """Watch a server's overall health."""
    calls = []

    def states(served):
        calls.append(served.health.Watch(health_pb2.HealthCheckRequest()))
        return (health_pb2.HealthCheckResponse.ServingStatus.Name(each.status) for each in calls[-1])

    yield states
    for call in calls:
        call.cancel()


def test_calls_in_flight_are_answered_and_new_ones_refused(serve, pictures, states):
    """A draining server finishes what it has begun, for those who run and those who wait, and takes no more."""
    served = serve(max_batch=2)
    served.gate.hold()
    futures = [served.begin(*pictures(1))]
    served.gate.until(1)
    futures += [served.begin(*pictures(1)) for _ in range(3)]
    served.queue.until(3)
    health = states(served)
    assert next(health) == "SERVING"
    draining = drain(served)
    assert next(health) == "NOT_SERVING"
    with served.connect() as channel, pytest.raises(grpc.RpcError) as error:
        dataclasses.replace(served, channel=channel).extract(*pictures(1))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not draining.done()
    served.gate.open()
    assert [len(future.result().results) for future in futures] == [1] * 4
    draining.result(30)
    served.assert_empty()


def test_newcomers_are_served_until_balancers_have_heard(serve, pictures, states):
    """During the delay health says no, while calls and streams of those who have not heard are served."""
    served = serve()
    health = states(served)
    assert next(health) == "SERVING"
    draining = drain(served, delay_s=LONG_S)
    assert next(health) == "NOT_SERVING"
    request = pb.ExtractRequest(request_id="late", images=pictures(1))
    (answer,) = served.features.StreamExtract(iter([request]))
    assert answer.request_id == "late"
    with served.connect() as channel:
        assert len(dataclasses.replace(served, channel=channel).extract(*pictures(2)).results) == 2
    draining.cancel()


def test_the_delay_has_an_end(serve, states):
    """When it is over the server drains, and its watchers are let go."""
    served = serve()
    health = states(served)
    assert next(health) == "SERVING"
    draining = drain(served, delay_s=0.1)
    seen = []
    with suppress(grpc.RpcError):  # the connection may be closed before the end of the stream is read
        seen.extend(health)
    assert seen == ["NOT_SERVING"]
    draining.result(30)
    served.assert_empty()


def test_an_idle_server_drains_at_once(serve):
    """Nothing in flight, nothing to wait for."""
    drain(serve()).result(30)


def test_those_who_only_watch_do_not_keep_a_server_alive(serve, states):
    """A health watcher hears NOT_SERVING and is let go; drains need not wait for those who never leave."""
    served = serve()
    health = states(served)
    assert next(health) == "SERVING"
    draining = drain(served)
    assert next(health) == "NOT_SERVING"
    draining.result(30)


def test_an_idle_stream_does_not_keep_a_server_alive(serve, pictures, states, reason):
    """A stream's requests in flight are answered, and then it ends with UNAVAILABLE: go elsewhere."""
    served = serve()
    served.gate.hold()
    hold = threading.Event()

    def requests():
        yield pb.ExtractRequest(request_id="last", images=pictures(1))
        hold.wait(30)

    responses = served.features.StreamExtract(requests())
    served.gate.until(1)
    health = states(served)
    assert next(health) == "SERVING"
    draining = drain(served)
    assert next(health) == "NOT_SERVING"
    served.gate.open()
    assert next(responses).request_id == "last"
    with pytest.raises(grpc.RpcError) as error:
        next(responses)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(error.value) == "UNAVAILABLE"
    draining.result(30)
    hold.set()


def test_calls_that_take_too_long_are_cut_off(serve, pictures):
    """The drain's own deadline counts: what is not answered by then never will be."""
    served = serve()
    served.gate.hold()
    future = served.begin(*pictures(1))
    served.gate.until(1)
    draining = drain(served, 0.2)
    with pytest.raises(grpc.RpcError):
        future.result()
    served.gate.open()
    draining.result(30)
    served.assert_empty()


def test_draining_twice_is_harmless(serve):
    """The second drain has nothing to do."""
    served = serve()
    drain(served).result(30)
    drain(served).result(30)
