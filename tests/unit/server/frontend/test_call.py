"""One call of the direct front end, without gRPC's core: how it ends."""

import asyncio
import logging

import pytest

from regard_server.frontend.direct.call import Call
from regard_server.frontend.direct.method import Method


class Core:
    """A stand-in for a call in gRPC's core, which notes what it is told to send."""

    metadata = ()

    def __init__(self):
        self.sent = []

    def finish(self, message, code, *_details):
        self.sent.append((message, code))


@pytest.fixture
def core():
    return Core()


@pytest.fixture
async def begin(core):
    """Begin a call of a servicer's function; return the call and the list of calls that are over."""

    def begin(behaviour, *callbacks):
        method = Method(
            "/a.Service/Do",
            behaviour,
            streams_requests=False,
            replies="returns",
            parse=bytes,
            serialize=bytes,
        )
        call = Call(core, method, loop=asyncio.get_running_loop(), logger=logging.getLogger("call"))
        for callback in callbacks:
            call.add_done_callback(callback)
        over = []
        assert call.begin(b"request", over.append)
        return call, over

    return begin


async def echo(request, _context):
    return request


async def test_a_call_that_is_left_before_its_first_step_ends_unserved(core, begin):
    """Its servicer's function never begins, nothing is sent, and whoever keeps calls hears of its end."""
    served = []

    async def serve(request, _context):
        served.append(request)
        return request

    call, over = begin(serve)
    call.leave()
    await call.task
    assert (over, served, core.sent) == ([call], [], [])


async def test_a_call_that_is_left_under_way_ends_once(core, begin):
    """The servicer's function is cancelled where it waits, and nothing is sent."""
    call, over = begin(lambda _request, _context: asyncio.Event().wait())
    task = call.task
    await asyncio.sleep(0)
    call.leave()
    await task
    assert (over, core.sent) == ([call], [])


async def test_what_fails_after_a_call_does_not_keep_the_rest_from_it(core, begin, caplog):
    """Of two functions that are to be called at the end the first one raises: it is logged, the second is called."""
    called = []

    def fail(_call):
        raise ZeroDivisionError

    call, over = begin(echo, fail, called.append)
    await call.task
    assert (over, called, core.sent) == ([call], [call], [(b"request", 0)])
    assert "a bug in what was to be done after /a.Service/Do" in caplog.text
