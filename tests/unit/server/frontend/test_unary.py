"""A call that is answered without a coroutine, without gRPC's core: how it ends."""

import logging

import grpc
import pytest

from regard_server.frontend.direct.core import CallOverError
from regard_server.frontend.direct.unary import UnaryCall

OK = grpc.StatusCode.OK


class Core:
    """A stand-in for a call in gRPC's core, which notes what it is told to send."""

    metadata = ()
    deadline = None

    def __init__(self):
        self.sent = []
        self.over = False

    def finish(self, message, code, *_):
        if self.over:
            raise CallOverError
        self.sent.append((message, code))


class Event:
    """A message that was received; None: there was none."""

    def __init__(self, message):
        self._message = message
        self.batch_operations = [self]

    def message(self):
        return self._message


@pytest.fixture
def core():
    return Core()


@pytest.fixture
def make(core):
    return lambda begin: UnaryCall(core, begin, logging.getLogger("unary"))


def test_a_message_is_answered_once(core, make):
    """By whoever answers it, when he does; what comes later is dropped."""
    call = make(lambda message, call: call.finish(message, OK, "", ()))
    call.take(Event(b"message"))
    call.finish(b"again", OK, "", ())
    assert core.sent == [(b"message", 0)]
    assert call.finished


def test_a_call_without_a_message_is_an_error(core, make):
    """Nobody is asked to answer it."""
    make(None).take(Event(None))
    assert core.sent == [(None, grpc.StatusCode.INTERNAL.value[0])]


def test_who_leaves_before_his_message_is_there_is_not_served(core, make):
    """What answers calls never hears of it."""
    call = make(None)
    call.leave()
    call.take(Event(b"message"))
    assert core.sent == []


def test_who_answers_hears_that_the_caller_has_left(core, make):
    """Once, and what he sends afterwards goes nowhere."""
    left = []
    call = make(lambda _, call: call.when_left(lambda: left.append(call)))
    call.take(Event(b"message"))
    call.leave()
    call.leave()
    call.finish(b"late", OK, "", ())
    assert (left, core.sent) == ([call], [])


def test_who_has_answered_hears_no_more_of_the_call(core, make):
    """Neither when it is over, nor if he asks for it afterwards; and the call keeps nothing of his."""
    left = []

    def answer(message, call):
        call.when_left(lambda: left.append("before"))
        call.finish(message, OK, "", ())
        call.when_left(lambda: left.append("after"))

    call = make(answer)
    call.take(Event(b"message"))
    call.leave()
    assert (left, core.sent) == ([], [(b"message", 0)])


def test_an_answer_to_a_call_that_the_core_has_given_up_is_dropped(core, make):
    """The caller left, and the core knew it first."""
    core.over = True
    make(lambda message, call: call.finish(message, OK, "", ())).take(Event(b"message"))
    assert core.sent == []


def test_a_bug_in_what_begins_calls_is_logged_and_ends_the_call(core, make, caplog):
    """Nobody waits for his deadline because of it."""

    def fail(_message, _call):
        raise ZeroDivisionError

    make(fail).take(Event(b"message"))
    assert core.sent == [(None, grpc.StatusCode.UNKNOWN.value[0])]
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_in_what_ends_calls_is_logged_and_stays_with_its_call(make, caplog):
    """Whoever answers may have a batch of calls to answer, and goes on with the next."""
    call = make(lambda _message, _call: None)
    call.take(Event(b"message"))
    call.finish(b"answer", OK, "", None)
    assert call.finished
    assert "not iterable" in caplog.text
