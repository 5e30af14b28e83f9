"""The client for threads, over real gRPC with the fake server."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard_client import (
    Client,
    ClientClosedError,
    Coalescing,
    DeadlineExceededError,
    FingerprintMismatchError,
    InternalServerError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    Transport,
    UnavailableError,
)
from regard_client.core import Core
from regard_client.images import Encoded
from regard_client.query import Query
from regard_client.testing import FakeServer
from regard_client.threads import SharedCalls
from regard_proto.v1 import features_pb2 as pb


def images(number):
    return [f"image {index}".encode() for index in range(number)]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as executor:
        yield executor


class Queue:
    """Tells when callers have come to wait for the next message."""

    def __init__(self, client):
        self._coalescer = client._shared._coalescer
        self._board = self._coalescer.board
        self._coalescer.board = self._note
        self._change = threading.Condition()

    def _note(self, rider, now_s):
        ride = self._board(rider, now_s)
        with self._change:
            self._change.notify_all()
        return ride

    def wait_for(self, number):
        """Return when so many callers wait."""
        lanes = self._coalescer._lanes
        with self._change:
            assert self._change.wait_for(
                lambda: sum(len(lane.waiting) for lane in list(lanes.values())) == number, timeout=30
            )


def ask_while_held(server, client, pool, names):
    """Start callers while two messages are away, so that they have to ride together; return their futures."""
    queue = Queue(client)
    with server.hold():
        ahead = [pool.submit(client.extract, b"ahead") for _ in range(2)]
        server.wait_for_calls(2)
        waiting = [pool.submit(client.extract, name) for name in names]
        queue.wait_for(len(names))
    assert all(future.result() is not None for future in ahead)
    return waiting


def test_extract_gives_one_array(client, server):
    """An image in, an array out, bit by bit the server's."""
    array = client.extract(b"photo")
    np.testing.assert_array_equal(array, server.vector(b"photo"))
    assert array.dtype == np.float32


def test_arrays_are_the_callers_own(client):
    """What is returned can be written to, whatever the message it came in."""
    client.extract(b"photo")[:] = 0


def test_result_gives_several_outputs_and_the_details(client, server):
    """Outputs by name, with timings, model, fingerprint and the request's name in the server's log."""
    result = client.result(b"photo", outputs=("layer4", "embedding"))
    assert list(result.outputs) == ["layer4", "embedding"]
    np.testing.assert_array_equal(result.outputs["layer4"], server.vector(b"photo", "layer4"))
    assert (result.model, result.fingerprint, result.error) == ("fake", "f" * 64, None)
    assert result.timings.batch_size == 1
    assert result.request_id == server.calls[-1].request.request_id


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16", "int8", "binary"])
def test_every_encoding_is_read(server, encoding):
    """What was asked for in an encoding is decoded from it."""
    with Client(server.target, encoding=encoding) as client:
        np.testing.assert_array_equal(client.extract(b"photo"), server.vector(b"photo", encoding=encoding))


def test_options_travel(server):
    """Every option of the client and the call stands in the request."""
    with Client(
        server.target,
        l2_normalize=True,
        priority="bulk",
        attention_reduction="mean_queries",
        expected_fingerprint="f" * 64,
        token="secret",  # noqa: S106 - not one
    ) as client:
        client.extract(b"photo", output="logits", model="fake", timeout_s=5)
    call = server.calls[0]
    assert call.request.model == "fake"
    assert list(call.request.outputs) == ["logits"]
    assert call.request.l2_normalize
    assert (call.request.priority, call.request.attention_reduction) == (2, 1)
    assert call.metadata["authorization"] == "Bearer secret"
    assert call.timeout_s == pytest.approx(5, abs=1)


@pytest.mark.parametrize(
    "options", [{"encoding": "float23"}, {"priority": "high"}, {"attention_reduction": "max"}]
)
def test_a_wrong_option_is_told_at_once(options):
    """An option without such a value is refused by the constructor, with those that there are."""
    with pytest.raises(ValueError, match="is none of"):
        Client(**options)


def test_the_constructor_neither_connects_nor_blocks():
    """A client of a server that is not there can be made; its first call fails with one clear line."""
    with (
        Client("127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"),
    ):
        client.extract(b"photo")


def test_a_bad_image_raises_its_own_error(client, server):
    """The status of an image becomes its caller's exception."""
    server.fail_image(b"bad", message="truncated JPEG")
    with pytest.raises(InvalidImageError, match="truncated JPEG") as caught:
        client.extract(b"bad")
    assert caught.value.reason == "IMAGE_UNDECODABLE"
    assert caught.value.request_id == server.calls[-1].request.request_id


def test_errors_of_the_call_are_told_apart(client, server):
    """Unknown models, unknown outputs and overload each have their class, chained to gRPC's own error."""
    with pytest.raises(ModelNotFoundError):
        client.extract(b"photo", model="nothing")
    with pytest.raises(InvalidRequestError, match="nothing"):
        client.extract(b"photo", output="nothing")
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.5)
    with pytest.raises(OverloadedError) as caught:
        client.extract(b"photo")
    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_server_that_refuses_nearly_all_is_not_sent_all(client, server):
    """Refusals spare the server more of them; who is held back gets the same error."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.5, times=200)
    for _ in range(200):
        with pytest.raises(OverloadedError) as caught:
            client.extract(b"photo")
        assert caught.value.retry_after_s == pytest.approx(0.5)
    assert 10 <= len(server.calls) < 200


def test_a_refused_image_counts_as_refused_though_its_message_was_answered(client, server):
    """It is no sign of room that others in its message were served."""
    server.fail_image(b"photo", "OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    for _ in range(200):
        with pytest.raises(OverloadedError):
            client.extract(b"photo")
    assert 10 <= len(server.calls) < 200


def test_every_call_is_sent_where_that_is_wished(server):
    """Whoever wants each refusal from the server itself says so."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, times=50)
    with Client(server.target, transport=Transport(sent_per_accepted=math.inf)) as client:
        for _ in range(50):
            with pytest.raises(OverloadedError):
                client.extract(b"photo")
    assert len(server.calls) == 50


def test_concurrent_calls_ride_together(client, server, pool):
    """Callers that find two messages away share the next one, and each gets its own vector."""
    names = images(20)
    vectors = [future.result() for future in ask_while_held(server, client, pool, names)]
    for name, vector in zip(names, vectors, strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))
    sizes = [len(call.images) for call in server.calls]
    # In one message if the machine made the first answers slow, and else in two.
    assert sizes[:2] == [1, 1]
    assert sorted(sizes[2:]) in ([20], [9, 11])


def test_a_bad_image_does_not_harm_its_co_riders(client, server, pool):
    """Of the callers in one message, only the one with the bad image gets an error."""
    names = images(5)
    server.fail_image(names[2])
    futures = ask_while_held(server, client, pool, names)
    assert [type(future.exception()) for future in futures] == [
        InvalidImageError if index == 2 else type(None) for index in range(5)
    ]


def test_every_co_rider_gets_an_error_of_its_own(client, server, pool):
    """A message that fails as a whole raises a separate exception in every caller."""
    queue = Queue(client)
    server.fail("", grpc.StatusCode.INTERNAL, times=3)
    with server.hold():
        futures = [pool.submit(client.extract, name) for name in images(2)]
        server.wait_for_calls(2)
        futures += [pool.submit(client.extract, name) for name in images(5)[2:]]
        queue.wait_for(3)
    errors = [future.exception() for future in futures]
    assert len({id(error) for error in errors}) == 5


def test_a_caller_whose_deadline_passes_is_told_at_once(client, server, pool):
    """A rider does not wait for the message that it would have gone with, and takes no place in it."""
    queue = Queue(client)
    with server.hold():
        ahead = [pool.submit(client.extract, b"ahead") for _ in range(2)]
        server.wait_for_calls(2)
        with pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
            client.extract(b"late", timeout_s=0.05)
        patient = pool.submit(client.extract, b"patient")
        queue.wait_for(1)
    np.testing.assert_array_equal(patient.result(), server.vector(b"patient"))
    assert all(future.result() is not None for future in ahead)
    assert [call.images for call in server.calls[2:]] == [(b"patient",)]


def test_a_lone_callers_deadline_says_how_long_it_was(client, server):
    """The deadline of a call is told in the caller's terms, not in gRPC's."""
    with server.hold(), pytest.raises(DeadlineExceededError, match=r"no answer within 0\.05 s"):
        client.extract(b"photo", timeout_s=0.05)


def test_the_call_lasts_as_long_as_its_most_patient_rider(client, server, pool):
    """The deadline that the server sees is the latest of the riders'."""
    queue = Queue(client)
    with server.hold():
        ahead = [pool.submit(client.extract, b"ahead") for _ in range(2)]
        server.wait_for_calls(2)
        riders = [
            pool.submit(client.extract, name, timeout_s=s)
            for name, s in zip(images(2), (20, 50), strict=True)
        ]
        queue.wait_for(2)
    assert all(future.result() is not None for future in (*ahead, *riders))
    assert server.calls[2].timeout_s == pytest.approx(50, abs=5)


def expect_only_the_leader_harmed(client, server, pool, when_it_waits=lambda: None):
    """Have four ride behind a call; their leader is interrupted by what was arranged, the others are answered."""
    queue = Queue(client)
    with server.hold():
        ahead = pool.submit(client.extract, b"ahead")
        server.wait_for_calls(1)
        # The most patient rider leads.
        leader = pool.submit(client.extract, b"leader", timeout_s=60)
        queue.wait_for(1)
        when_it_waits()
        followers = [pool.submit(client.extract, name, timeout_s=30) for name in images(3)]
        queue.wait_for(4)
    assert ahead.result() is not None
    assert isinstance(leader.exception(), KeyboardInterrupt)
    for name, follower in zip(images(3), followers, strict=True):
        np.testing.assert_array_equal(follower.result(), server.vector(name))


def test_an_interrupted_leader_leaves_its_co_riders_unharmed(server, pool):
    """When the thread that makes the call is interrupted, the others go again without it."""
    with Client(server.target, coalesce=Coalescing(in_flight=1)) as client:
        shared, interrupts = client._shared, threading.Event()
        send = shared._call

        def interrupted(request, timeout_s):
            if not interrupts.is_set() and len(request.images) > 1:
                interrupts.set()
                raise KeyboardInterrupt
            return send(request, timeout_s)

        shared._call = interrupted
        expect_only_the_leader_harmed(client, server, pool)
    assert server.calls[-1].images == tuple(images(3))


def test_a_rider_who_is_interrupted_as_it_is_to_lead_leaves_the_others_unharmed(server, pool):
    """Whenever the interrupt strikes, the ride that was this one's to send is sent by another."""
    with Client(server.target, coalesce=Coalescing(in_flight=1)) as client:

        def strike():
            ((waiting,),) = (lane.waiting for lane in client._shared._coalescer._lanes.values())

            def interrupted():
                assert waiting.to_lead is not None
                raise KeyboardInterrupt

            waiting.wake.clear = interrupted  # what it does first when it is woken

        expect_only_the_leader_harmed(client, server, pool, when_it_waits=strike)
    assert [call.images for call in server.calls] == [(b"ahead",), tuple(images(3))]


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_leader_who_is_interrupted_as_it_hands_out_the_answers_leaves_the_lane_free(server, pool, step):
    """The others have their answers, nobody's image goes twice, and whoever comes next is sent."""
    with Client(server.target, coalesce=Coalescing(in_flight=1)) as client:
        coalescer = client._shared._coalescer
        arrive = coalescer.arrive

        def interrupted(ride, now_s, *, answered):
            if len(ride.riders) == 1:
                return arrive(ride, now_s, answered=answered)
            if step == "after":
                arrive(ride, now_s, answered=answered)
            raise KeyboardInterrupt

        coalescer.arrive = interrupted
        expect_only_the_leader_harmed(client, server, pool)
        assert client.extract(b"next") is not None
        assert [len(call.images) for call in server.calls] == [1, 4, 1]
        assert not coalescer._lanes


@pytest.mark.parametrize(
    ("step", "count"),
    [
        ("request", lambda _, pictures: len(pictures)),
        ("call", lambda request, _: len(request.images)),
        ("outcomes", lambda _, __, images: images),
    ],
)
def test_a_bug_in_a_shared_message_is_an_error_for_each_of_its_riders(server, pool, step, count):
    """What fails, unless its leader is interrupted, fails for all: each has an error of his own, nobody asks again."""
    with Client(server.target, coalesce=Coalescing(in_flight=1)) as client:
        owner, name = (client._shared, "_call") if step == "call" else (client._core, step)
        real, faults = getattr(owner, name), []

        def fail(*arguments):
            if count(*arguments) == 1:
                return real(*arguments)
            faults.append(step)
            raise MemoryError("no room for so much")

        setattr(owner, name, fail)
        queue = Queue(client)
        with server.hold():
            ahead = pool.submit(client.extract, b"ahead")
            server.wait_for_calls(1)
            riders = [pool.submit(client.extract, each) for each in images(4)]
            queue.wait_for(4)
        assert ahead.result() is not None
        errors = [rider.exception() for rider in riders]
        assert [(type(error), str(error)) for error in errors] == [(MemoryError, "no room for so much")] * 4
        assert len({id(error) for error in errors}) == 4
        assert faults == [step]
        assert client.extract(b"next") is not None


def test_a_server_that_takes_fewer_images_gets_fewer(pool):
    """A message of too many images goes again in halves; no caller notices."""
    names = images(9)
    with FakeServer(max_images=3) as server, Client(server.target) as client:
        futures = ask_while_held(server, client, pool, names)
        for name, future in zip(names, futures, strict=True):
            np.testing.assert_array_equal(future.result(), server.vector(name))


def test_without_coalescing_every_call_is_a_message(server, pool):
    """`coalesce=False` sends every image at once, alone."""
    with Client(server.target, coalesce=False) as client:
        with server.hold():
            futures = [pool.submit(client.extract, name) for name in images(8)]
            server.wait_for_calls(8)
        assert all(future.result() is not None for future in futures)
    assert [len(call.images) for call in server.calls] == [1] * 8


def test_a_pinned_fingerprint_is_expected_from_then_on(server):
    """With "pin" the version that answers first is the only one that may answer."""
    with Client(server.target, expected_fingerprint="pin") as client:
        client.extract(b"photo")
        server.fingerprint = "e" * 64
        with pytest.raises(FingerprintMismatchError):
            client.extract(b"photo")
    assert [call.request.expected_fingerprint for call in server.calls] == ["", "f" * 64]


def test_first_calls_beside_each_other_cannot_mix_versions():
    """Of two first calls that two versions answer, the second to come back is refused."""
    core = Core("target", Query(), "pin", None, sent_per_accepted=2.0)
    query = core.query("embedding", None)
    assert not query.expected_fingerprint
    core.check(query, pb.ExtractResponse(fingerprint="one", results=[pb.ExtractResult()]), 1)
    with pytest.raises(FingerprintMismatchError, match="'two'; expected 'one'"):
        core.check(query, pb.ExtractResponse(fingerprint="two", results=[pb.ExtractResult()]), 1)
    assert core.query("embedding", None).expected_fingerprint == "one"


def test_a_response_of_another_length_is_refused():
    """A server that answers two images with one result has not answered."""
    core = Core("target", Query(), None, None, sent_per_accepted=2.0)
    with pytest.raises(InternalServerError, match="2 images with 1 results"):
        core.check(Query(), pb.ExtractResponse(results=[pb.ExtractResult()]), 2)


def test_a_message_that_does_not_fit_is_an_error_for_each_of_its_riders():
    """One result too few is told to every caller as an error of his own, and to one who asks for the result."""
    core = Core("target", Query(), None, None, sent_per_accepted=2.0)
    outcomes = core.outcomes(Query(), pb.ExtractResponse(results=[pb.ExtractResult()]), 2)
    assert [type(outcome) for outcome in outcomes] == [InternalServerError] * 2
    assert outcomes[0] is not outcomes[1]
    with pytest.raises(InternalServerError, match="2 images with 1 results"):
        core.result(Query(), outcomes[0], 1.0)


def test_models_are_described(client, server):
    """What the server says of its models arrives as plain values."""
    (model,) = client.models()
    assert model == client.model() == client.model("fake")
    assert (model.name, model.is_default, model.state, model.trained) == ("fake", True, "ready", False)
    assert model.fingerprint == server.fingerprint
    assert model.outputs["layer4"].shape == (4, 2, 2)
    with pytest.raises(ModelNotFoundError):
        client.model("nothing")


def test_waiting_for_a_server_that_serves_returns_at_once(client):
    """A ready server keeps nobody waiting, for the service and for the model."""
    client.wait_until_ready(10)
    client.wait_until_ready(10, model="fake")


def test_waiting_ends_when_the_server_becomes_ready(client, server, pool):
    """The news that the model serves ends the wait; nothing is polled."""
    server.set_serving(serving=False)
    waiting = pool.submit(client.wait_until_ready, 30)
    server.set_serving(serving=True)
    assert waiting.result(30) is None


def test_waiting_in_vain_says_how_far_it_got(client, server):
    """When the time is up, the error names the service and its last state."""
    server.set_serving(serving=False)
    said = ""
    for timeout_s in (0.2, 2, 20):  # however long it takes to hear of the state
        with pytest.raises(UnavailableError) as error:
            client.wait_until_ready(timeout_s)
        said = str(error.value)
        if "not reachable" not in said:
            break
    assert f"regard.v1.FeatureService is NOT_SERVING after {timeout_s:g} s" in said
    with Client("127.0.0.1:1") as lost, pytest.raises(UnavailableError, match="not reachable"):
        lost.wait_until_ready(0.2)


def test_a_closed_client_says_so(client):
    """Every call on a closed client raises ClientClosedError; closing twice does nothing."""
    client.close()
    client.close()
    for call in (lambda: client.extract(b"photo"), client.models, lambda: list(client.results([b"photo"]))):
        with pytest.raises(ClientClosedError):
            call()


def test_closing_frees_those_who_wait(client, server, pool):
    """Callers in flight, and those waiting behind them, are told that the client was closed."""
    queue = Queue(client)
    with server.hold():
        futures = [pool.submit(client.extract, name) for name in images(2)]
        server.wait_for_calls(2)
        futures += [pool.submit(client.extract, name) for name in images(6)]
        queue.wait_for(6)
        client.close()
        assert {type(future.exception()) for future in futures} == {ClientClosedError}


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_every_caller_gets_its_own_answer(numbers):
    """Whatever rides together, an answer goes to the caller whose image it is of."""
    with FakeServer() as server, Client(server.target) as client, ThreadPoolExecutor(16) as pool:
        names = [str(number).encode() for number in numbers]
        for name, vector in zip(names, pool.map(client.extract, names), strict=True):
            np.testing.assert_array_equal(vector, server.vector(name))


def test_shared_calls_need_no_channel():
    """The machinery of leaders and followers is apart from gRPC: a function that fails oddly fails one caller."""

    def broken(*_):
        raise ZeroDivisionError

    with Client() as client:
        shared = SharedCalls(client._core, Coalescing(), broken)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                shared.ask(client._core.query("embedding", None), Encoded(b"photo"), 5)
