"""What a call without a coroutine is sent, however it ends, and what is counted and logged of it."""

import asyncio
import gc
import logging
import weakref

import grpc
import pytest
from google.protobuf.message import DecodeError

from regard_server.call_book import CallBook
from regard_server.embeddings import EmbeddingHealth
from regard_server.errors import MalformedRequestError, OverloadedError
from regard_server.metrics import Metrics
from regard_server.reply import guarded
from regard_server.request_id import METADATA_KEY, current_request_id

LOGGER = logging.getLogger("test.reply")


class Call:
    """A stand-in for a call, which notes what it is told to send."""

    def __init__(self, metadata=((METADATA_KEY, "mine"),)):
        self._metadata = metadata
        self.sent = []

    def invocation_metadata(self):
        return self._metadata

    def finish(self, message, code, details, trailing):
        self.sent.append((message, code, details, dict(trailing)))


@pytest.fixture
def metrics():
    return Metrics(EmbeddingHealth(samples_per_s=0, reference_samples=16, folder=None, logger=LOGGER))


@pytest.fixture
def ask(metrics):
    """Ask a behaviour, and return what its caller was sent."""

    def ask(behaviour, parse=bytes, call=None):
        call = call or Call()
        guarded("Do", behaviour, parse, CallBook(metrics, LOGGER))(b"data", call)
        (sent,) = call.sent
        return sent

    return ask


def counted(metrics):
    return {code: count.value for (_, code), count in metrics.requests.children().items() if count.value}


def test_an_answer_is_sent_under_the_calls_name(ask, metrics):
    """With the message that was made, and counted."""
    sent = ask(lambda message, _, reply: reply.send(lambda: message + b"!"))
    assert sent == (b"data!", grpc.StatusCode.OK, "", {METADATA_KEY: "mine"})
    assert counted(metrics) == {"OK": 1}


def refuse():
    raise OverloadedError("full", retry_after_s=0.5)


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda *_: refuse(),
        lambda _, __, reply: reply.fail(OverloadedError("full", retry_after_s=0.5)),
        lambda _, __, reply: reply.send(refuse),
    ],
    ids=["raised", "told", "raised while the answer is made"],
)
def test_an_error_is_a_status_wherever_it_comes_from(ask, metrics, behaviour):
    """With its message, and when to try again."""
    message, code, details, trailers = ask(behaviour)
    assert (message, code) == (None, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "full" in details
    assert trailers["grpc-retry-pushback-ms"] == "500"
    assert counted(metrics) == {"RESOURCE_EXHAUSTED": 1}


@pytest.mark.parametrize("error", [DecodeError(), MalformedRequestError("no message")])
def test_what_is_no_message_is_the_callers_mistake(ask, error):
    """The behaviour is not asked."""

    def parse(_):
        raise error

    _, code, details, _ = ask(None, parse)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "message" in details


def test_a_bug_is_logged_under_the_calls_name_and_not_told(ask, caplog):
    """The caller gets no details, but the name to ask the operator by."""
    names = []

    class Named(logging.Handler):
        def emit(self, _):
            names.append(current_request_id())

    handler = Named()
    LOGGER.addHandler(handler)
    try:
        _, code, details, _ = ask(lambda *_: 1 / 0)
    finally:
        LOGGER.removeHandler(handler)
    assert code is grpc.StatusCode.INTERNAL
    assert "division" not in details
    assert "mine" in details
    assert "ZeroDivisionError" in caplog.text
    assert set(names) == {"mine"}
    assert current_request_id() == ""


def test_a_call_that_is_cancelled_is_counted_so(ask, metrics):
    """Its caller has left, as far as one can know."""
    ask(lambda _, __, reply: reply.fail(asyncio.CancelledError()))
    assert counted(metrics) == {"CANCELLED": 1}


def test_an_error_keeps_nothing_of_its_request(ask):
    """What it was raised in the course of goes at once, not when the cyclic garbage collector comes by."""

    class Held:
        pass

    held = []

    def fail(*_):
        mine = Held()
        held.append(weakref.ref(mine))
        raise OverloadedError("full", retry_after_s=1.0)

    gc.collect()
    gc.disable()
    try:
        ask(fail)
        assert held[0]() is None
    finally:
        gc.enable()
