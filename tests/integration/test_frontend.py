"""What gRPC itself promises, of both front ends, with methods made for the purpose and no model behind them."""

import asyncio
import contextlib
import logging
import queue
import socket
import threading

import grpc
import pytest

from regard_server.frontend.direct.server import DirectFrontEnd
from regard_server.frontend.public import PublicFrontEnd
from regard_server.frontend.routes import Routes

PATIENCE_S = 60.0
BINARY = ("tag-bin", b"\x00\xff")


class Methods:
    """Methods that do what their names say, and tell of it in `events`."""

    def __init__(self):
        self.events = queue.SimpleQueue()
        self.writes = 0

    async def echo(self, request, _context):
        return request

    async def count(self, _request, context):
        for number in range(3):
            await context.write(b"%d" % number)

    async def yields(self, requests, _context):
        async for request in requests:
            yield request

    async def join(self, requests, _context):
        return b"".join([request async for request in requests])

    async def wait(self, _request, _context):
        self.events.put("waiting")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.put("cancelled")
            raise

    async def flood(self, _request, context):
        self.events.put("flooding")
        try:
            while True:
                await context.write(bytes(1 << 20))
                self.writes += 1
        finally:  # cancelled, or by the error of the message that found nobody
            self.events.put("ended")

    async def refuse(self, _request, context):
        context.set_trailing_metadata((("a", "1"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (BINARY,))

    async def bug(self, _request, _context):
        raise ZeroDivisionError

    async def tell(self, _request, context):
        await context.send_initial_metadata((("early", "yes"),))
        remaining = context.time_remaining()
        context.set_trailing_metadata(
            (("remaining", "none" if remaining is None else f"{remaining:.0f}"), BINARY)
        )
        sent = dict(context.invocation_metadata())
        return repr((sent.get("sent"), sent.get("sent-bin"), context.peer().split(":")[0])).encode()

    async def squeeze(self, request, context):
        context.set_compression(grpc.Compression.Gzip)
        await context.write(request)
        context.disable_next_message_compression()
        await context.write(request)
        with pytest.raises(RuntimeError):  # too late
            context.set_compression(grpc.Compression.Gzip)

    async def squeeze_once(self, request, context):
        context.set_compression(grpc.Compression.Deflate)
        return request

    async def end_badly(self, _request, context):
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("half of it")
        return b"not sent"

    def handlers(self):
        unary, writes, joins, both = (
            grpc.unary_unary_rpc_method_handler,
            grpc.unary_stream_rpc_method_handler,
            grpc.stream_unary_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        return {
            "Count": writes(self.count),
            "Flood": writes(self.flood),
            "Join": joins(self.join),
            "Squeeze": writes(self.squeeze),
            "Yields": both(self.yields),
            **{
                name.title().replace("_", ""): unary(getattr(self, name))
                for name in ("echo", "wait", "refuse", "bug", "tell", "end_badly", "squeeze_once")
            },
        }


class Running:
    """A front end on a socket, with a channel."""

    def __init__(self, loop, server, methods, address):
        self.loop, self.server, self.methods, self.address = loop, server, methods, address
        self.channel = self.connect()

    def connect(self, *options):
        return grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1), *options])

    def await_(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def unary(self, name, channel=None):
        return (channel or self.channel).unary_unary(f"/test.Test/{name}")

    def hear(self, event):
        assert self.methods.events.get(timeout=PATIENCE_S) == event


@pytest.fixture
def start(loop, frontend, tmp_path):
    """Start front ends with options of the test's own."""
    running = []

    def start(*options, credentials=None, address=None, max_calls=None, door=None, foresight=None):
        methods = Methods()

        async def begin():
            routes = Routes(lambda _, handler: handler)
            routes.foresight = foresight
            routes.add_registered_method_handlers("test.Test", methods.handlers())
            routes.door = door
            if frontend == "direct":
                server = DirectFrontEnd(routes, options, logging.getLogger("test"), max_calls=max_calls)
            else:
                server = PublicFrontEnd(routes, options, max_calls=max_calls)
            port = server.listen(address or f"unix:{tmp_path / str(len(running))}", credentials)
            await server.start()
            return server, port

        server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_S)
        where = f"localhost:{port}" if address else f"unix:{tmp_path / str(len(running))}"
        running.append(Running(loop, server, methods, where))
        return running[-1]

    yield start
    for each in running:
        each.channel.close()
        each.await_(each.server.stop(0.0))


@pytest.fixture
def served(start):
    return start()


def failure(call, *arguments, **options):
    """Return the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, timeout=PATIENCE_S, **options)
    return error.value


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_messages_of_any_size_come_back(served, size):
    """An empty message is a message, too."""
    assert served.unary("Echo")(bytes(size), timeout=PATIENCE_S) == bytes(size)


def test_all_four_kinds_of_methods(served):
    """One or many messages, either way."""
    numbers = [b"0", b"1", b"2"]
    channel, name = served.channel, "/test.Test/{}".format
    assert list(channel.unary_stream(name("Count"))(b"", timeout=PATIENCE_S)) == numbers
    assert channel.stream_unary(name("Join"))(iter(numbers), timeout=PATIENCE_S) == b"012"
    assert list(channel.stream_stream(name("Yields"))(iter(numbers), timeout=PATIENCE_S)) == numbers


def test_an_unknown_method_is_unimplemented(served):
    """For services and for methods."""
    for name in ("/test.Test/Nothing", "/other.Other/Echo"):
        error = failure(served.channel.unary_unary(name), b"")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_travels_both_ways(served):
    """Text and binary, before and after the message."""
    sent = (("sent", "text"), ("sent-bin", b"\x00\x01"))
    answer, call = served.unary("Tell").with_call(b"", timeout=100, metadata=sent)
    assert answer == repr(("text", b"\x00\x01", "unix")).encode()
    assert dict(call.initial_metadata()) == {"early": "yes"}
    trailing = dict(call.trailing_metadata())
    assert trailing.pop("remaining") in {"99", "100", "101"}  # gRPC rounds on the way
    assert trailing == dict((BINARY,))


def test_without_a_deadline_there_is_none(served):
    """`time_remaining` is None, not a large number."""
    _, call = served.unary("Tell").with_call(b"")
    assert dict(call.trailing_metadata())["remaining"] == "none"


def test_an_abort_carries_code_details_and_trailers(served):
    """What was set before is replaced."""
    error = failure(served.unary("Refuse"), b"")
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert tuple(error.trailing_metadata()) == (BINARY,)


def test_a_code_that_was_set_ends_the_call(served):
    """The message is not sent then."""
    error = failure(served.unary("EndBadly"), b"")
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "half of it")


def test_a_bug_is_unknown_and_the_next_call_is_served(served):
    """Nobody is left waiting for an answer that will not come."""
    assert failure(served.unary("Bug"), b"").code() is grpc.StatusCode.UNKNOWN
    assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"


def test_a_bug_in_what_is_foreseen_costs_one_call_alone(start, caplog):
    """Whichever thread meets it goes on to take calls."""
    threads = []

    def foresee(method, _metadata, _deadline):
        if method.endswith("Bug"):
            threads.append(threading.current_thread().name)
            raise ZeroDivisionError

    served = start(foresight=foresee)
    while served.server.name == "direct" and "grpc" not in threads:
        assert failure(served.unary("Bug"), b"").code() is grpc.StatusCode.UNKNOWN
    assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"
    assert caplog.text.count("a bug in what lets") == threads.count("servers")


def test_a_bug_in_the_door_is_unknown_and_the_next_call_is_served(start, frontend):
    """Whichever thread is at the door when it fails, nobody is left waiting, and it takes the next call."""
    threads, failing = [], True

    def door(*_call):
        if failing:
            threads.append(threading.current_thread().name)
            raise ZeroDivisionError

    served = start(door=door)
    if frontend == "direct":  # who waits for calls is at the door only where there is foresight
        served.server._board._foresight = lambda *_call: None
    while not threads or (frontend == "direct" and "grpc" not in threads):
        failing = True
        assert failure(served.unary("Echo"), b"x").code() is grpc.StatusCode.UNKNOWN
        failing = False
        assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"


def test_a_caller_who_leaves_cancels_the_work(start):
    """By cancelling, by his deadline, and by closing the connection."""
    served = start()
    future = served.unary("Wait").future(b"", timeout=PATIENCE_S)
    served.hear("waiting")
    future.cancel()
    served.hear("cancelled")
    while served.methods.events.empty():  # a call may expire on its way
        with pytest.raises(grpc.RpcError) as error:
            served.unary("Wait")(b"", timeout=0.5)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    served.hear("waiting")
    while served.methods.events.get(timeout=PATIENCE_S) != "cancelled":
        pass  # a call that was slow on its way, and waits now beside the next
    served = start()  # which no such call is on its way to
    with served.connect() as channel:
        leaving = served.unary("Wait", channel).future(b"")
        served.hear("waiting")
        assert not leaving.done()
    served.hear("cancelled")


def test_a_reader_who_does_not_read_stops_the_writer(served):
    """Flow control: what is not read is not written, and when he leaves it ends."""
    call = served.channel.unary_stream("/test.Test/Flood")(b"", timeout=PATIENCE_S)
    served.hear("flooding")
    assert len(next(call)) == 1 << 20
    assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"
    assert served.methods.writes < 64
    call.cancel()
    served.hear("ended")


def test_a_message_that_is_too_large_is_refused(start):
    """RESOURCE_EXHAUSTED, before any of it reaches a servicer."""
    served = start(("grpc.max_receive_message_length", 1000))
    assert served.unary("Echo")(bytes(1000), timeout=PATIENCE_S) == bytes(1000)
    assert failure(served.unary("Echo"), bytes(1001)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_beyond_the_limit_wait(start):
    """A connection carries so many calls at a time; the next one begins when one has ended."""
    served = start(("grpc.max_concurrent_streams", 1))
    first = served.unary("Wait").future(b"", timeout=PATIENCE_S)
    served.hear("waiting")
    second = served.unary("Echo").future(b"x", timeout=PATIENCE_S)
    first.cancel()
    assert second.result() == b"x"


class Relay:
    """Stands between a caller and a server on one connection, and counts what the server says."""

    def __init__(self, port):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._port = port
        self.answered = 0
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        caller, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        back = threading.Thread(target=self._pass_on, args=(server, caller))
        back.start()
        while data := caller.recv(1 << 16):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
        back.join()
        caller.close()
        server.close()

    def _pass_on(self, server, caller):
        with contextlib.suppress(OSError):  # the caller has hung up
            while data := server.recv(1 << 16):
                self.answered += len(data)
                caller.sendall(data)

    def close(self):
        self._threads[0].join(PATIENCE_S)
        self._listener.close()


def test_answers_are_compressed_where_a_servicer_says_so(start):
    """Less travels, the caller reads the same, and a message may be let be."""
    served = start(address="127.0.0.1:0")
    message = bytes(1 << 20)
    counted = {}
    for name in ("Echo", "SqueezeOnce", "Squeeze"):
        relay = Relay(int(served.address.rpartition(":")[2]))
        with grpc.insecure_channel(relay.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            if name == "Squeeze":
                answers = list(channel.unary_stream(f"/test.Test/{name}")(message, timeout=PATIENCE_S))
                assert answers == [message] * 2
            else:
                assert channel.unary_unary(f"/test.Test/{name}")(message, timeout=PATIENCE_S) == message
        relay.close()
        counted[name] = relay.answered
    # grpc.aio forgets it where an answer is returned.
    assert (counted["SqueezeOnce"] < 1 << 16) == (served.server.name == "direct")
    assert 1 << 20 < counted["Echo"] <= counted["Squeeze"] + 1000 < (1 << 20) + (1 << 16)


def test_calls_beyond_the_limit_are_refused(start):
    """Over all connections, whatever becomes of those before: the room of one that is over is another's."""
    served = start(max_calls=2)
    inside = [served.unary("Wait").future(b"", timeout=PATIENCE_S) for _ in range(2)]
    served.hear("waiting")
    served.hear("waiting")
    with served.connect() as other:
        for name in ("Echo", "Refuse"):
            error = failure(served.unary(name, other), bytes(1 << 20))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    inside[0].cancel()
    served.hear("cancelled")
    while True:  # until the front end has heard of it, too
        try:
            assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - not yet
        else:
            break
    inside[1].cancel()


def test_connections_beyond_the_limit_are_closed(start):
    """Whoever is connected stays, and another's place is free when he leaves."""
    served = start(("grpc.max_allowed_incoming_connections", 2), address="127.0.0.1:0")
    assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"
    port = int(served.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as third:
                third.settimeout(PATIENCE_S)
                assert not third.recv(1)
        assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"


def test_a_port_that_is_taken_is_an_os_error(start):
    """Two servers on one address would be a mistake."""
    taken = start(("grpc.so_reuseport", 0), address="127.0.0.1:0")
    port = taken.address.rpartition(":")[2]
    with pytest.raises(OSError, match="cannot listen"):
        start(("grpc.so_reuseport", 0), address=f"127.0.0.1:{port}")


def test_many_calls_at_once_are_all_answered(served):
    """Each caller gets his own answer."""
    echo = served.unary("Echo")
    futures = [echo.future(b"%d" % number, timeout=PATIENCE_S) for number in range(500)]
    assert [future.result() for future in futures] == [b"%d" % number for number in range(500)]


def test_a_storm_of_cancellations_leaves_the_server_whole(served):
    """Calls that are given up at any moment of their lives cost nobody else anything."""
    echo = served.unary("Echo")
    for _ in range(20):
        futures = [echo.future(bytes(1000), timeout=PATIENCE_S) for _ in range(50)]
        for future in futures[::2]:
            future.cancel()
        assert all(future.result() == bytes(1000) for future in futures[1::2])
    assert echo(b"x", timeout=PATIENCE_S) == b"x"


def test_stopping_waits_for_calls_and_then_cuts_them_off(served):
    """A grace that is long enough lets calls end; none ends them."""
    future = served.unary("Wait").future(b"", timeout=PATIENCE_S)
    served.hear("waiting")
    stopping = asyncio.run_coroutine_threadsafe(served.server.stop(1000.0), served.loop)
    served.await_(served.server.stop(0.0))
    stopping.result(PATIENCE_S)
    served.hear("cancelled")
    with pytest.raises(grpc.RpcError):
        future.result()
    assert failure(served.unary("Echo"), b"").code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_stops_is_done_with_every_call(start):
    """Those that have just come, those that run and those that are given up all end, and so does it."""
    for _ in range(5):
        served = start()
        names = ("Echo", "Wait", "Bug", "Nothing") * 10
        futures = [served.unary(name).future(bytes(1000), timeout=PATIENCE_S) for name in names]
        staying = [future for number, future in enumerate(futures) if number % 3 or not future.cancel()]
        served.await_(served.server.stop(0.0))
        assert all(future.exception() or future.result() == bytes(1000) for future in staying)


def test_a_server_that_was_never_started_can_be_stopped(loop, frontend):
    """Whoever fails to bind has nothing to clean up."""

    async def stop():
        routes = Routes(lambda _, handler: handler)
        kind = PublicFrontEnd if frontend == "public" else DirectFrontEnd
        server = kind(routes, (), *([logging.getLogger("test")] if frontend == "direct" else []))
        await server.stop(0.0)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(PATIENCE_S)


def test_no_thread_outlives_its_server(start):
    """A stopped server leaves nothing running."""
    before = [thread.name for thread in threading.enumerate()].count("grpc")
    served = start()
    assert served.unary("Echo")(b"x", timeout=PATIENCE_S) == b"x"
    served.await_(served.server.stop(0.0))
    assert [thread.name for thread in threading.enumerate()].count("grpc") == before
