"""The client for asyncio, over real gRPC with the fake server."""

import asyncio
import traceback

import grpc
import numpy as np
import pytest

from regard_client import (
    AsyncClient,
    ClientClosedError,
    Coalescing,
    DeadlineExceededError,
    InternalServerError,
    InvalidImageError,
    OverloadedError,
    UnavailableError,
)
from regard_client.testing import FakeServer
from regard_proto.v1 import features_pb2 as pb


@pytest.fixture
async def client(server):
    async with AsyncClient(server.target) as connected:
        yield connected


def images(number):
    return [f"image {index}".encode() for index in range(number)]


async def start(coroutines):
    """Start tasks and let each run until it waits."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def start_apart(coroutines):
    """Start tasks one after the other, so that each departs alone if it may."""
    return [task for coroutine in coroutines for task in await start([coroutine])]


async def arrived(server, number):
    await asyncio.to_thread(server.wait_for_calls, number)


async def test_extract_and_result_are_as_in_the_client_for_threads(client, server):
    """An image in, an array out; details with `result`."""
    np.testing.assert_array_equal(await client.extract(b"photo"), server.vector(b"photo"))
    result = await client.result(b"photo", outputs=["layer4"])
    np.testing.assert_array_equal(result.outputs["layer4"], server.vector(b"photo", "layer4"))


async def test_files_are_read_off_the_loop(client, server, tmp_path):
    """A path is read in a thread; a missing one is an ordinary FileNotFoundError."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"jpeg")
    np.testing.assert_array_equal(await client.extract(path), server.vector(b"jpeg"))
    with pytest.raises(FileNotFoundError):
        await client.extract(tmp_path / "none.jpg")


async def test_calls_of_one_moment_ride_together(client, server):
    """Tasks that ask before the loop turns again share two messages, and each gets its own vector."""
    vectors = await asyncio.gather(*(client.extract(name) for name in images(20)))
    for name, vector in zip(images(20), vectors, strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))
    assert [len(call.images) for call in server.calls] == [10, 10]


async def test_calls_that_are_answered_together_go_on_together(client, server):
    """Tasks whose answers came in one message ask again in one message."""

    async def ask_twice(name):
        await client.extract(name)
        await client.extract(name)

    await asyncio.gather(*(ask_twice(name) for name in images(8)))
    assert [len(call.images) for call in server.calls] == [8, 8]


async def test_concurrent_calls_ride_together(client, server):
    """Calls that find two messages away share the next ones, and each gets its own vector."""
    with server.hold():
        tasks = await start_apart(client.extract(name) for name in images(20))
        await arrived(server, 2)
    for name, vector in zip(images(20), await asyncio.gather(*tasks), strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))
    sizes = [len(call.images) for call in server.calls]
    # In one message if the machine made the first answers slow, and else in two.
    assert sizes[:2] == [1, 1]
    assert sorted(sizes[2:]) in ([18], [8, 10], [9, 9])


async def test_a_rider_that_is_cancelled_while_it_waits_takes_no_place(client, server):
    """Cancelling one who waits leaves the others of the next message their answers."""
    with server.hold():
        ahead = await start_apart(client.extract(b"ahead") for _ in range(2))
        await arrived(server, 2)
        leaver, *stayers = await start(client.extract(name) for name in images(4))
        leaver.cancel()
        await asyncio.wait([leaver])
    await asyncio.gather(*ahead)
    for name, vector in zip(images(4)[1:], await asyncio.gather(*stayers), strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))
    assert server.calls[2].images == tuple(images(4)[1:])


async def test_a_rider_that_is_cancelled_under_way_does_not_stop_its_message(server):
    """A message goes on for those who still wait for it."""
    async with AsyncClient(server.target, coalesce=Coalescing(in_flight=1)) as client:
        with server.hold():
            (ahead,) = await start([client.extract(b"ahead")])
            await arrived(server, 1)
            leaver, stayer = await start(client.extract(name) for name in (b"leaver", b"stayer"))
            ahead.cancel()  # so that the two depart while the server still holds
            await arrived(server, 2)
            leaver.cancel()
            await asyncio.wait([leaver])
        np.testing.assert_array_equal(await stayer, server.vector(b"stayer"))
    assert server.calls[1].images == (b"leaver", b"stayer")


async def test_a_message_that_nobody_waits_for_is_cancelled(client, server):
    """When its last rider is gone, the call is given up, and the next one departs."""
    with server.hold():
        tasks = await start_apart(client.extract(name) for name in images(3))
        await arrived(server, 2)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.wait(tasks[:2])
        await arrived(server, 3)
    np.testing.assert_array_equal(await tasks[2], server.vector(images(3)[2]))


async def test_a_message_whose_riders_leave_before_it_is_sent_takes_no_place(client, server):
    """Callers who ask and are cancelled in one moment, however many, keep nobody from departing."""
    for _ in range(5):
        leaver = asyncio.ensure_future(client.extract(b"leaver"))
        await asyncio.sleep(0)  # it has asked, and its message has not departed
        leaver.cancel()
        await asyncio.wait([leaver])
    np.testing.assert_array_equal(await client.extract(b"stayer"), server.vector(b"stayer"))


async def test_nothing_is_kept_of_callers_who_have_gone(client, server):
    """Answered, refused, late or cancelled: nobody is left among those who wait or ride."""
    server.fail_image(b"bad")
    asked = [client.extract(name) for name in (b"photo", b"bad")]
    await asyncio.gather(*asked, return_exceptions=True)
    with server.hold():
        late = client.extract(b"late", timeout_s=0.05)
        cancelled, late = await start([client.extract(b"cancelled"), late])
        await arrived(server, 2)
        cancelled.cancel()
        await asyncio.wait([cancelled, late])
    await client.extract(b"photo")
    await asyncio.sleep(0)
    coalescer = client._shared._coalescer
    assert not coalescer._riding
    assert not any(lane.waiting or lane.away for lane in coalescer._lanes.values())
    assert not client._shared._away
    assert not any(client._shared._deadlines._lines.values())


async def test_a_caller_whose_deadline_passes_is_told_at_once(client, server):
    """A rider does not wait for the message that it would have gone with, and takes no place in it."""
    with server.hold():
        ahead = await start_apart(client.extract(b"ahead") for _ in range(2))
        await arrived(server, 2)
        with pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
            await client.extract(b"late", timeout_s=0.05)
    await asyncio.gather(*ahead)
    assert len(server.calls) == 2


async def test_errors_are_told_apart(client, server):
    """A bad image and an overloaded server raise their own errors, chained to gRPC's."""
    server.fail_image(b"bad")
    with pytest.raises(InvalidImageError):
        await client.extract(b"bad")
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.5)
    with pytest.raises(OverloadedError) as caught:
        await client.extract(b"photo")
    assert caught.value.retry_after_s == pytest.approx(0.5)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_a_reply_that_cannot_be_read_is_the_servers_fault():
    """Bytes that are no message raise an error of the server, whatever was asked."""

    async def babble(_request, _context):
        return b"\xff"

    class Babbler(grpc.GenericRpcHandler):
        def service(self, call):
            if call.method.endswith("Watch"):
                return grpc.unary_stream_rpc_method_handler(chatter)
            return grpc.unary_unary_rpc_method_handler(babble)

    async def chatter(_request, _context):
        yield b"\xff"

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Babbler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        for asking in (client.extract(b"photo"), client.models(), client.model(), client.wait_until_ready(9)):
            with pytest.raises(InternalServerError, match="cannot be read"):
                await asking
        with pytest.raises(InternalServerError, match="cannot be read"):
            await anext(client.results([b"photo"]))
    await server.stop(None)


async def test_riders_of_a_response_that_does_not_fit_have_errors_of_their_own(client):
    """A message is read once for all of its riders, and what is wrong with it is told to each apart."""

    async def answer_one(*_):
        await asyncio.sleep(0)
        return pb.ExtractResponse(results=[pb.ExtractResult()])

    client._shared._call = answer_one
    caught = await asyncio.gather(*(client.extract(name) for name in images(4)), return_exceptions=True)
    assert [str(each).partition(" answered ")[2] for each in caught] == ["4 images with 1 results"] * 4
    assert {type(each) for each in caught} == {InternalServerError}
    assert len({id(each) for each in caught}) == 4


async def test_a_server_that_refuses_nearly_all_is_not_sent_all(client, server):
    """Refusals spare the server more of them; who is held back gets the same error."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.5, times=200)
    for _ in range(200):
        with pytest.raises(OverloadedError) as caught:
            await client.extract(b"photo")
        assert caught.value.retry_after_s == pytest.approx(0.5)
    assert 10 <= len(server.calls) < 200


async def test_a_server_that_takes_fewer_images_gets_fewer():
    """A message of too many images goes again in halves; no caller notices."""
    with FakeServer(max_images=3) as server:
        async with AsyncClient(server.target) as client:
            vectors = await asyncio.gather(*(client.extract(name) for name in images(20)))
        for name, vector in zip(images(20), vectors, strict=True):
            np.testing.assert_array_equal(vector, server.vector(name))


async def test_models_and_readiness(client, server):
    """Models are described and waited for as in the client for threads."""
    (model,) = await client.models()
    assert model == await client.model()
    server.set_serving(serving=False)
    waiting = asyncio.ensure_future(client.wait_until_ready(30))
    with pytest.raises(UnavailableError, match="expected SERVING"):
        await client.wait_until_ready(0.2)
    server.set_serving(serving=True)
    await waiting


async def test_a_client_can_be_made_without_a_loop_and_closed_unused():
    """The constructor needs no running loop, and an unused client has nothing to close."""
    client = await asyncio.to_thread(AsyncClient, "127.0.0.1:1")
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.extract(b"photo")


async def test_closing_frees_those_who_wait(client, server):
    """Callers in flight, and those waiting behind them, are told that the client was closed."""
    with server.hold():
        tasks = await start_apart(client.extract(name) for name in images(8))
        await arrived(server, 2)
        await client.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ClientClosedError}


async def test_a_bug_reaches_those_who_wait(client):
    """An exception that nobody expects is raised in the caller, not lost in a background task."""

    async def broken(*_):
        await asyncio.sleep(0)
        raise ZeroDivisionError

    client._shared._call = broken
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await client.extract(b"photo")


class Odd(Exception):  # noqa: N818 - it has no better name
    """Cannot be made from its arguments."""

    def __init__(self, one, another):
        super().__init__(one + another)


@pytest.mark.parametrize(
    ("error", "is_own"),
    [
        (OverloadedError("no room", reason="FULL", retry_after_s=0.5, request_id="x-1"), True),
        (ZeroDivisionError("a bug"), True),
        (Odd("a ", "bug"), False),
    ],
    ids=["ours", "bug", "odd"],
)
async def test_riders_of_a_message_that_fails_have_errors_of_their_own(client, error, is_own):
    """Of the same class, with the same words and advice, and each with the way to its own caller alone."""

    async def broken(*_):
        await asyncio.sleep(0)
        raise error

    client._shared._call = broken
    caught = await asyncio.gather(*(client.extract(name) for name in images(3)), return_exceptions=True)
    assert {type(each) for each in caught} == {type(error)}
    assert [(str(each), vars(each)) for each in caught] == [(str(error), vars(error))] * 3
    assert len({id(each) for each in caught}) == (3 if is_own else 1)
    ways = [[frame.name for frame in traceback.extract_tb(each.__traceback__)] for each in caught]
    assert all("broken" in way for way in ways)
    assert [way.count("ask") for way in ways] == [1] * 3
