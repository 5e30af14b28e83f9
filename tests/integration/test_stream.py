"""StreamExtract over a real channel."""

import asyncio
import gc
import queue
import threading

import grpc
import numpy as np
import pytest
from encoded import jpeg

from regard_proto.v1 import features_pb2 as pb

PATIENCE_S = 60.0


class Sender:
    """An iterator of requests that the test feeds by hand, and that counts how many gRPC took."""

    def __init__(self):
        self._waiting = queue.SimpleQueue()
        self.taken = threading.Semaphore(0)

    def send(self, *requests):
        for request in requests:
            self._waiting.put(request)

    def close(self):
        self._waiting.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        request = self._waiting.get(timeout=PATIENCE_S)
        if request is None:
            raise StopIteration
        self.taken.release()
        return request


@pytest.fixture
def ask(pictures):
    """Make a request with an id."""

    def ask(request_id, images=None, **fields):
        return pb.ExtractRequest(request_id=request_id, images=images or pictures(1), **fields)

    return ask


@pytest.fixture
def stream():
    """Open a stream of a server: (sender, responses). What is left open is closed at the end."""
    opened = []

    def stream(served):
        sender = Sender()
        responses = served.features.StreamExtract(sender, timeout=PATIENCE_S)
        opened.append((sender, responses))
        return sender, responses

    yield stream
    for sender, responses in opened:
        sender.close()
        responses.cancel()


def test_every_request_is_answered_once_under_its_id(shared, stream, ask, vectors):
    """Many requests, each with its own vector, whatever the order of the answers."""
    sender, responses = stream(shared)
    requests = {f"r{number}": ask(f"r{number}") for number in range(150)}
    sender.send(*requests.values())
    sender.close()
    answers = {response.request_id: response for response in responses}
    assert answers.keys() == requests.keys()
    for name in ("r0", "r77", "r149"):
        alone = shared.features.Extract(requests[name])
        np.testing.assert_allclose(vectors(answers[name]), vectors(alone), atol=1e-5)
        assert answers[name].fingerprint == alone.fingerprint


def test_answers_come_as_they_finish(serve, stream, ask):
    """A request that needs no device is answered before one that waits for it."""
    served = serve()
    served.gate.hold()
    sender, responses = stream(served)
    sender.send(ask("slow"))
    served.gate.until(1)
    sender.send(ask("quick", [pb.Image(encoded=b"text")]))
    assert next(responses).request_id == "quick"
    served.gate.open()
    assert next(responses).request_id == "slow"


def test_a_failed_request_does_not_end_the_stream(shared, stream, ask, reason, vectors):
    """Errors of whole requests are in their responses, in between the answers to others."""
    sender, responses = stream(shared)
    sender.send(
        ask("unknown model", model="nothing"),
        ask("unknown output", outputs=["nothing"]),
        pb.ExtractRequest(request_id="no images"),
        ask("pinned", expected_fingerprint="00"),
        ask("good"),
    )
    sender.close()
    answers = {response.request_id: response for response in responses}
    assert vectors(answers.pop("good")).shape == (1, 64)
    assert {name: (answer.error.code, reason(answer.error)) for name, answer in answers.items()} == {
        "unknown model": (5, "MODEL_NOT_FOUND"),
        "unknown output": (3, "OUTPUT_UNKNOWN"),
        "no images": (3, "NO_IMAGES"),
        "pinned": (9, "FINGERPRINT_MISMATCH"),
    }
    assert all(not answer.results for answer in answers.values())


def test_a_request_without_an_id_is_an_error(shared, stream, ask, reason):
    """Nobody could tell whose answer it is."""
    sender, responses = stream(shared)
    sender.send(ask(""))
    answer = next(responses)
    assert (answer.request_id, answer.error.code, reason(answer.error)) == ("", 3, "INVALID_REQUEST")


def test_an_id_that_is_in_flight_already_is_an_error(serve, stream, ask, reason):
    """Two answers under one name could not be told apart; after the answer the name is free again."""
    served = serve()
    served.gate.hold()
    sender, responses = stream(served)
    sender.send(ask("same"))
    served.gate.until(1)
    sender.send(ask("same"))
    answer = next(responses)
    assert (answer.error.code, reason(answer.error)) == (3, "INVALID_REQUEST")
    assert "'same' is in flight" in answer.error.message
    served.gate.open()
    assert next(responses).results
    sender.send(ask("same"))
    assert next(responses).results


def test_a_bad_image_does_not_spoil_its_request(shared, stream, ask, pictures, reason):
    """A result of its own for each image, on a stream too."""
    sender, responses = stream(shared)
    good = pictures(1)[0]
    sender.send(ask("mixed", [good, pb.Image(encoded=b"text"), good]))
    first, bad, second = next(responses).results
    assert reason(bad.error) == "IMAGE_FORMAT_UNKNOWN"
    assert first.features == second.features


def test_the_server_reads_no_further_than_its_window(serve, stream, ask):
    """While a window of requests is being worked on, the next ones stay with the caller."""
    served = serve(stream_window=3, max_batch=1)
    served.gate.hold()
    sender, responses = stream(served)
    sender.send(*(ask(f"r{number}") for number in range(8)))
    served.gate.until(1)
    served.queue.until(2)
    assert served.metric("regard_in_flight_images") == 3
    for _ in range(8):
        served.gate.step()
        next(responses)
        assert served.metric("regard_in_flight_images") <= 3
    served.gate.open()
    assert served.gate.batches == [1] * 8


def test_a_stream_that_is_cancelled_leaves_nothing_behind(serve, stream, ask):
    """Requests of a caller who is gone leave the queue."""
    served = serve()
    served.gate.hold()
    sender, responses = stream(served)
    sender.send(ask("running"))
    served.gate.until(1)
    sender.send(*(ask(f"r{number}") for number in range(4)))
    served.queue.until(4)
    responses.cancel()
    served.journal.until("StreamExtract CANCELLED")
    served.queue.until(0)
    served.assert_empty()
    served.gate.open()
    assert served.extract(*ask("").images).results


def test_streams_that_are_given_up_leave_no_exceptions_behind(serve, stream, ask):
    """What ends one of them is not remembered while the next one ends."""
    served = serve()
    for number in range(2):
        sender, responses = stream(served)
        sender.send(ask("a"))
        next(responses)
        responses.cancel()
        # Where gRPC says that there are no more requests before it says that nobody listens, it ends well.
        served.journal.until("StreamExtract ", number + 1)
    served.assert_empty()
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is asyncio.CancelledError]


def test_a_deadline_of_the_stream_holds_for_its_requests(serve, ask):
    """When the stream's own deadline passes, its requests leave the queue with it."""
    served = serve()
    served.gate.hold()
    while not served.gate.batches:  # until the server has it, so that its deadline is the server's business
        sender = Sender()
        responses = served.features.StreamExtract(sender, timeout=0.5)
        sender.send(ask("late"))
        with pytest.raises(grpc.RpcError) as error:
            list(responses)
        sender.close()
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    served.journal.until("StreamExtract ")
    ends = {line.split()[1] for line in served.journal.lines if line.startswith("StreamExtract ")}
    assert ends <= {"CANCELLED", "OK"}  # OK where its request was late a moment before the stream itself
    served.assert_empty()


def test_a_request_of_a_stream_has_the_servers_deadline(serve, stream, ask, reason):
    """On a stream without a deadline a request is late after the server's default, and the stream goes on."""
    served = serve(default_timeout_s=0.2)
    served.gate.hold()
    sender, responses = stream(served)
    sender.send(ask("late"))
    answer = next(responses)
    assert (answer.error.code, reason(answer.error)) == (4, "DEADLINE_EXPIRED")
    sender.send(ask("next"))
    assert next(responses).request_id == "next"
    served.gate.open()


def test_a_bug_in_one_request_does_not_end_the_stream(serve, stream, ask, monkeypatch):
    """Our own mistake is INTERNAL for its request, logged with its traceback, and the others are answered."""
    served = serve()

    def fail(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("regard_server.images.read_jpeg", fail)
    sender, responses = stream(served)
    sender.send(ask("bug", [pb.Image(encoded=jpeg())] * 2))
    answer = next(responses)
    assert (answer.request_id, answer.error.code) == ("bug", 13)
    assert "secret" not in answer.error.message
    sender.send(ask("good"))
    assert next(responses).results
    served.journal.until("a bug in")
    served.assert_empty()


def test_an_empty_stream_ends_well(shared, stream):
    """A caller who has nothing to send gets nothing and OK."""
    sender, responses = stream(shared)
    sender.close()
    assert list(responses) == []
    assert responses.code() is grpc.StatusCode.OK


def test_a_stream_waits_for_room_instead_of_being_refused(serve, stream, ask):
    """More requests than the server has room for are answered one after another: flow control, not errors."""
    served = serve(max_in_flight_images=2)
    served.gate.hold()
    sender, responses = stream(served)
    for number in range(6):
        sender.send(ask(str(number)))
    served.gate.until(1)
    served.gate.open()
    answers = [next(responses) for _ in range(6)]
    assert sorted(answer.request_id for answer in answers) == list("012345")
    assert all(answer.results and not answer.HasField("error") for answer in answers)
    served.assert_empty()
