"""Callers who want too much, leave too early, or never listen: everybody else is served, and nothing is left behind."""

import contextlib
import gc
import io
import socket
import threading

import grpc
import psutil
import pytest
from PIL import Image

from regard_proto.v1 import features_pb2 as pb

MIB = 1 << 20


def rss():
    return psutil.Process().memory_info().rss


def test_a_flood_is_shed_and_those_inside_are_served(serve, pictures, reason):
    """Beyond the limit everybody is refused at once, with a time to come back, and the rest is answered."""
    served = serve(max_in_flight_images=8, max_batch=4)
    served.gate.hold()
    inside = [served.begin(*pictures(1))]
    served.gate.until(1)
    inside += [served.begin(*pictures(1)) for _ in range(7)]
    served.queue.until(7)
    flood = [served.begin(*pictures(1)) for _ in range(200)]
    for future in flood:
        error = future.exception()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(error) == "OVERLOADED"
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    served.gate.open()
    assert all(len(future.result().results) == 1 for future in inside)
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="shed") == 200
    served.assert_empty()


def test_a_request_beyond_the_byte_budget_is_shed(serve, reason):
    """Bytes are counted as well as images."""
    served = serve(max_in_flight_bytes=MIB)
    served.gate.hold()
    image = pb.Image(raw=pb.RawImage(height=500, width=500, data=bytes(750_000)))
    inside = served.begin(image)
    served.gate.until(1)
    with pytest.raises(grpc.RpcError) as error:
        served.extract(image)
    assert reason(error.value) == "OVERLOADED"
    assert "the limit is 1048576 at once" in error.value.details()
    served.gate.open()
    assert inside.result().results


def encoded(side, form):
    """Return an image of so many pixels by as many."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 60)).save(file, form)
    return pb.Image(encoded=file.getvalue())


def test_large_images_are_all_answered_though_there_is_memory_for_one(serve):
    """They are decoded one after the other, however many there are and whichever form they have."""
    served = serve(max_decoding_bytes=1, decode_threads=4)
    images = [encoded(1500, "WEBP")] * 6
    images += [pb.Image(raw=pb.RawImage(height=1200, width=1000, data=bytes(3_600_000)))] * 3
    results = served.extract(*images).results
    assert [result.WhichOneof("outcome") for result in results] == ["features"] * 9
    served.assert_empty()


@contextlib.contextmanager
def no_memory(served):
    """Let a thread of the decoders hold all memory; yield the budget."""
    memory, held, go = served.server._limits.memory, threading.Event(), threading.Event()

    def hold():
        memory.reserve(1)
        held.set()
        assert go.wait(30)

    holding = threading.Thread(target=served.await_, args=(served.server._decoders.read(hold),))
    holding.start()
    try:
        assert held.wait(30)
        yield memory
    finally:
        go.set()
        holding.join()


def test_small_images_are_answered_while_a_large_one_waits_for_memory(serve):
    """It keeps the thread that is left from nothing."""
    served = serve(max_decoding_bytes=1, decode_threads=2)
    with no_memory(served):
        large, small = served.begin(encoded(1500, "WEBP")), encoded(50, "JPEG")
        assert all(served.extract(small).results[0].HasField("features") for _ in range(3))
        assert not large.done()
    assert large.result().results[0].HasField("features")
    served.assert_empty()


def test_a_large_image_whose_time_is_over_waits_for_memory_no_more(serve):
    """Its caller hears in time, and it is never decoded."""
    served = serve(max_decoding_bytes=1, decode_threads=2)
    with no_memory(served) as memory:
        served.expire(lambda: len(memory._line), encoded(1500, "WEBP"))
        assert not len(memory._line)
    assert not served.gate.batches
    served.assert_empty()


def test_thousands_of_cancelled_calls_leave_nothing_behind(serve, pictures):
    """Callers who leave at any moment cost no memory, no place in the queue and nobody else's answer."""
    served = serve(max_in_flight_images=100_000)
    images = pictures(4)

    def leave(count):
        futures = [served.begin(*images) for _ in range(count)]
        for future in futures:
            future.cancel()

    leave(500)
    before = rss()
    for _ in range(4):
        leave(500)
        assert served.extract(*images).results
    assert rss() - before < 100 * MIB
    served.await_(served.server.drain(30.0))
    served.assert_empty()
    assert served.journal.count("a bug in") == 0


@pytest.fixture
def uncollected():
    """Return the requests that are alive although nobody holds them, the cyclic garbage collector being off."""
    gc.collect()
    known = {id(each) for each in gc.get_objects() if type(each) is pb.ExtractRequest}
    gc.disable()
    yield lambda: [
        each for each in gc.get_objects() if type(each) is pb.ExtractRequest and id(each) not in known
    ]
    gc.enable()


@pytest.mark.parametrize("fault", ["cancelled", "late", "refused"])
def test_the_memory_of_a_failed_request_is_free_at_once(serve, pictures, uncollected, fault):
    """A request that failed is in no reference cycle: its megabytes do not wait for the garbage collector."""
    served = serve()
    images = pictures(2)
    served.gate.hold()
    if fault == "cancelled":
        future = served.begin(*images)
        served.gate.until(1)
        future.cancel()
        served.journal.until("Extract CANCELLED")
    elif fault == "late":
        served.expire(lambda: served.gate.batches, *images)
        served.journal.until("Extract ")
    else:
        assert served.begin(*images, outputs=["none"]).exception().code() is grpc.StatusCode.INVALID_ARGUMENT
    served.gate.open()
    future = None
    assert served.check() == "SERVING"  # a round trip: the handler before it is over
    assert uncollected() == []


def test_the_memory_of_a_streams_messages_is_free_at_once(serve):
    """Nor is what a stream received, or sent, in a reference cycle: a long one is no larger than a short one."""
    served = serve(stream_window=2)
    image = pb.Image(encoded=bytes(2 * MIB))  # no picture: it is soon answered

    def stream(count):
        requests = (pb.ExtractRequest(request_id=str(number), images=[image]) for number in range(count))
        assert sum(1 for _ in served.features.StreamExtract(requests)) == count

    gc.collect()
    gc.disable()
    try:
        stream(20)
        before = rss()
        stream(150)
        assert rss() - before < 100 * MIB
    finally:
        gc.enable()
    served.assert_empty()


def test_a_stream_that_never_listens_disturbs_nobody(serve, pictures):
    """A caller who sends and sends and reads nothing is held by flow control; others are served meanwhile."""
    served = serve(stream_window=4)
    images = pictures(32)
    stop = threading.Event()

    def requests():
        for number in range(10_000):
            if stop.is_set():
                return
            yield pb.ExtractRequest(request_id=str(number), images=images, outputs=["layer1", "layer2"])

    before = rss()
    responses = served.features.StreamExtract(requests())
    for _ in range(100):
        assert served.extract(*images[:2]).results
    assert rss() - before < 300 * MIB
    stop.set()
    responses.cancel()
    served.journal.until("StreamExtract CANCELLED")
    served.assert_empty()
    assert served.journal.count("a bug in") == 0


@pytest.mark.parametrize(
    "words", [b"", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01" + bytes(300)]
)
def test_connections_that_say_nothing_of_use_disturb_nobody(shared, pictures, words):
    """A hundred connections that never finish a sentence leave the server serving."""
    host, _, port = shared.server.address.rpartition(":")
    with contextlib.ExitStack() as stack, shared.connect() as channel:
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(words)
        shared.channel, kept = channel, shared.channel
        try:
            assert shared.extract(*pictures(1)).results
        finally:
            shared.channel = kept


def test_many_threads_at_once_get_their_own_vectors(serve, pictures, vectors):
    """Under concurrent load nobody gets another's answer."""
    served = serve(max_batch=16)
    images = pictures(40)
    expected = vectors(served.extract(*images))
    futures = [(number, served.begin(images[number])) for number in range(40) for _ in range(5)]
    for number, future in futures:
        assert abs(vectors(future.result())[0] - expected[number]).max() < 1e-5
    served.assert_empty()
