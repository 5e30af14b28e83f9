"""Many images in order, from threads and from tasks."""

import asyncio
import itertools

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_client import AsyncClient, Client, Coalescing, FingerprintMismatchError, InvalidImageError, bulk
from regard_client.bulk import Pile
from regard_client.errors import ModelNotFoundError, OverloadedError, RegardError, UnavailableError
from regard_client.images import Encoded
from regard_client.testing import FakeServer


def images(number):
    return [f"image {index}".encode() for index in range(number)]


async def collect(target, given_images, method="extract_many", **options):
    async with AsyncClient(target) as client:
        return [each async for each in getattr(client, method)(given_images, **options)]


def extract_in_threads(server, given_images, **options):
    with Client(server.target) as client:
        return list(client.extract_many(given_images, **options))


def extract_in_tasks(server, given_images, **options):
    return asyncio.run(collect(server.target, given_images, **options))


both = pytest.mark.parametrize("extract", [extract_in_threads, extract_in_tasks])


@both
def test_every_image_is_answered_in_order(server, extract):
    """As many vectors as images, each in its image's place."""
    vectors = extract(server, images(300))
    assert len(vectors) == 300
    for name, vector in zip(images(300), vectors, strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))


@both
def test_no_images_give_no_answers(server, extract):
    """An empty iterable asks the server for nothing."""
    assert extract(server, []) == []
    assert not server.calls


@both
def test_many_images_share_messages(server, extract):
    """Messages fill up to the limit while others are away."""
    extract(server, images(300))
    sizes = [len(call.images) for call in server.calls]
    assert max(sizes) == Coalescing().max_images
    assert {call.request.priority for call in server.calls} == {2}


@both
def test_an_overloaded_server_is_waited_for(server, extract):
    """Messages that are refused for overload go again after the pause that the server asks for."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.01, times=3)
    vectors = extract(server, images(100))
    for name, vector in zip(images(100), vectors, strict=True):
        np.testing.assert_array_equal(vector, server.vector(name))


@both
def test_waiting_has_an_end(server, extract):
    """A server that stays overloaded for longer than the timeout is an error."""
    server.fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=30, times=1000)
    with pytest.raises(OverloadedError):
        extract(server, images(100), timeout_s=20)


@both
def test_final_errors_are_raised(server, extract):
    """What no retry would mend ends the iteration."""
    with pytest.raises(ModelNotFoundError):
        extract(server, images(3), model="nothing")


@both
def test_the_first_bad_image_ends_extract_many(server, extract):
    """`extract_many` raises what is wrong with an image."""
    server.fail_image(images(50)[40])
    with pytest.raises(InvalidImageError):
        extract(server, images(50))


@both
def test_a_server_that_takes_fewer_images_gets_fewer(extract):
    """Messages of too many images go again in halves, in order, and later ones are smaller."""
    with FakeServer(max_images=5) as server:
        vectors = extract(server, images(100))
        for name, vector in zip(images(100), vectors, strict=True):
            np.testing.assert_array_equal(vector, server.vector(name))
        assert len(server.calls[-1].images) <= 5


@both
def test_what_is_no_image_is_a_mistake_in_the_program(server, extract):
    """An object of the wrong type raises, wherever it stands."""
    with pytest.raises(TypeError, match="NoneType"):
        extract(server, [b"1", None])


@pytest.mark.parametrize("threads", [True, False])
def test_results_go_on_past_bad_images(server, tmp_path, threads):
    """What is wrong with an image, here or there, is in its result; the others are answered."""
    server.fail_image(b"bad")
    given_images = [b"good", tmp_path / "none.jpg", b"bad", b"", np.zeros((1, 2), np.float64), b"good"]
    if threads:
        with Client(server.target) as client:
            results = list(client.results(given_images))
    else:
        results = asyncio.run(collect(server.target, given_images, "results"))
    assert [type(result.error) for result in results] == [
        type(None),
        FileNotFoundError,
        InvalidImageError,
        InvalidImageError,
        InvalidImageError,
        type(None),
    ]
    np.testing.assert_array_equal(results[-1].outputs["embedding"], server.vector(b"good"))


def test_nothing_is_sent_for_images_that_are_all_bad_here(client, server):
    """A message without a single readable image is no message."""
    assert [type(result.error) for result in client.results([b"", b""])] == [InvalidImageError] * 2
    assert not server.calls


@pytest.mark.parametrize("encountered", [1, 500])
def test_infinite_images_are_drawn_as_they_are_needed(client, encountered):
    """Only a bounded number of images is drawn ahead of the consumer."""
    drawn = itertools.count()
    vectors = client.extract_many(b"%d" % next(drawn) for _ in itertools.count())
    for _ in range(encountered):
        next(vectors)
    vectors.close()
    limits = Coalescing()
    assert next(drawn) <= encountered + (4 + 1) * limits.max_images + 1


async def test_infinite_images_are_drawn_as_they_are_needed_in_tasks(server):
    """Only a bounded number of images is drawn ahead of the consumer, and what is in flight is cancelled."""
    drawn = itertools.count()
    async with AsyncClient(server.target) as client:
        vectors = client.extract_many(b"%d" % next(drawn) for _ in itertools.count())
        for _ in range(100):
            await anext(vectors)
        await vectors.aclose()
        assert next(drawn) <= 100 + (4 + 1) * Coalescing().max_images + 1
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_source_does_not_hold_answers_back(server):
    """In tasks, an answer is yielded when it is there, though the next image never comes."""
    never = asyncio.Event()

    async def source():
        yield b"first"
        await never.wait()

    async with AsyncClient(server.target) as client:
        vectors = client.extract_many(source())
        np.testing.assert_array_equal(await anext(vectors), server.vector(b"first"))
        await vectors.aclose()


def test_no_more_messages_than_allowed_are_in_flight(server):
    """The window is as wide as `max_in_flight` says."""
    with Client(server.target, max_in_flight=2, coalesce=Coalescing(max_images=4)) as client:
        results = client.results(images(100))
        with server.hold():
            consumer = asyncio.new_event_loop()
            waiting = consumer.run_in_executor(None, next, results)
            server.wait_for_calls(2)
        consumer.run_until_complete(waiting)
        consumer.run_until_complete(consumer.shutdown_default_executor())
        consumer.close()
        assert len(list(results)) == 99


def test_a_change_of_version_under_way_is_noticed(server):
    """With a pinned fingerprint, the vectors of one iteration are of one version."""
    with Client(server.target, expected_fingerprint="pin", max_in_flight=1) as client:
        vectors = client.extract_many(images(100))
        next(vectors)
        server.fingerprint = "e" * 64
        with pytest.raises(FingerprintMismatchError):
            list(vectors)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 5), st.integers(1, 60))
def test_the_pile_keeps_order_and_limits(sizes, max_images, max_bytes):
    """Every image leaves once, in order, in messages that keep to the limits or hold a single image."""
    pile, left = Pile(Coalescing(max_images=max_images, max_bytes=max_bytes)), []
    items = [Encoded(b"x" * size) for size in sizes]
    for item in items:
        pile.add(item)
        while message := pile.depart(idle=False):
            left.append(message)
    while message := pile.depart(idle=True):
        left.append(message)
    assert [id(item) for message in left for item in message] == [id(item) for item in items]
    for message in left:
        assert len(message) <= max_images
        assert len(message) == 1 or sum(item.nbytes for item in message) <= max_bytes


def test_an_idle_pile_departs_with_what_there_is():
    """A message is not held back while none is away."""
    pile = Pile(Coalescing(max_images=10))
    pile.add(Encoded(b"x"))
    assert not pile.depart(idle=False)
    assert len(pile.depart(idle=True)) == 1
    assert not pile.depart(idle=True)


@pytest.mark.parametrize(
    ("error", "attempt", "left_s", "expected"),
    [
        (OverloadedError("", retry_after_s=0.5), 0, 10.0, 0.5),
        (OverloadedError("", retry_after_s=0.0), 0, 10.0, 0.1),
        (UnavailableError(""), 0, 10.0, 0.1),
        (UnavailableError(""), 3, 10.0, 0.8),
        (UnavailableError(""), 30, 10.0, 5.0),
        (UnavailableError(""), 30, 4.0, None),
        (InvalidImageError(""), 0, 10.0, None),
        (RegardError(""), 0, 10.0, None),
    ],
)
def test_pauses(error, attempt, left_s, expected):
    """A pause is what the server asks for or doubles, and ends when there is no time left."""
    assert bulk.pause_s(error, attempt, left_s) == pytest.approx(expected)
