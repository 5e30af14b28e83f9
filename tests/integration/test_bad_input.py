"""Bad input over a real channel: its own code, a stable reason, and no harm to anybody else."""

import math
import struct
import threading
import time
import zlib

import grpc
import numpy as np
import psutil
import pytest
from encoded import jpeg

from regard_client import Client
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server import app, images
from regard_server.servicers.parsing import bounded_parser

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def png(width, height):
    """Return a PNG file that ends where its pixels would begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\1\0\0IDAT"
    )


def tensor(*shape, fill=0.0):
    return pb.Image(tensor=tensors.from_array(np.full(shape, fill, np.float32)))


@pytest.fixture
def refused(shared, reason):
    """Send a request that is refused as a whole: (code, reason, message)."""

    def refused(request, **options):
        with pytest.raises(grpc.RpcError) as error:
            shared.features.Extract(request, timeout=30, **options)
        return error.value.code(), reason(error.value), error.value.details()

    yield refused
    shared.assert_empty()


IMAGES = {
    "truncated JPEG": (pb.Image(encoded=jpeg()[:-200]), "IMAGE_UNDECODABLE", "is the file complete?"),
    "header alone": (pb.Image(encoded=png(60_000, 60_000)[:-8]), "IMAGE_UNDECODABLE", "a damaged PNG"),
    "text": (pb.Image(encoded=b"hello, world"), "IMAGE_FORMAT_UNKNOWN", "expected one of JPEG, PNG"),
    "huge PNG header": (pb.Image(encoded=png(60_000, 60_000)), "IMAGE_TOO_LARGE", "at most 50000000"),
    "zero bytes": (pb.Image(encoded=b""), "IMAGE_EMPTY", "expected an encoded file"),
    "no source": (pb.Image(), "IMAGE_EMPTY", "expected encoded, raw or tensor"),
    "raw of a wrong size": (
        pb.Image(raw=pb.RawImage(height=2, width=2, data=b"x")),
        "PIXELS_INVALID",
        "= 12",
    ),
    "NaN tensor": (tensor(3, 32, 32, fill=math.nan), "TENSOR_NOT_FINITE", "expected finite numbers"),
    "infinite tensor": (tensor(3, 32, 32, fill=-math.inf), "TENSOR_NOT_FINITE", "expected finite numbers"),
    "channels last": (tensor(32, 32, 3), "TENSOR_INVALID", "expected float32 of shape (3, H, W)"),
    "four channels": (tensor(4, 32, 32), "TENSOR_INVALID", "expected float32 of shape (3, H, W)"),
    "a batch": (tensor(1, 3, 32, 32), "TENSOR_INVALID", "expected float32 of shape (3, H, W)"),
    "a vector": (tensor(3), "TENSOR_INVALID", "expected float32 of shape (3, H, W)"),
    "an empty side": (tensor(3, 0, 32), "TENSOR_INVALID", "H and W from 1 to 512"),
    "too many rows": (tensor(3, 513, 1), "IMAGE_TOO_LARGE", "H and W from 1 to 512"),
    "too few bytes": (
        pb.Image(tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 4, 4], data=bytes(191))),
        "TENSOR_INVALID",
        "expected 192",
    ),
    "sides beyond any memory": (
        pb.Image(tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 2**32 - 1, 2**32 - 1])),
        "IMAGE_TOO_LARGE",
        "H and W from 1 to 512",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_image_fails_alone(shared, pictures, vectors, reason, name):
    """Its own result says why and what was expected; its neighbours' vectors are those they have alone."""
    bad, expected_reason, words = IMAGES[name]
    good = pictures(2)
    first, error, second = shared.extract(good[0], bad, good[1]).results
    assert error.error.code == INVALID.value[0]
    assert reason(error.error) == expected_reason
    assert words in error.error.message
    assert error.timings.batch_size == 0
    together = vectors(pb.ExtractResponse(results=[first, second]))
    np.testing.assert_allclose(together, vectors(shared.extract(*good)), atol=1e-5)
    shared.assert_empty()


@pytest.mark.parametrize(
    ("fields", "code", "expected_reason", "words"),
    [
        (
            {"model": "resnet_tinny"},
            grpc.StatusCode.NOT_FOUND,
            "MODEL_NOT_FOUND",
            "did you mean resnet_tiny?",
        ),
        ({"outputs": ["embeding"]}, INVALID, "OUTPUT_UNKNOWN", "did you mean embedding?"),
        ({"encoding": 99}, INVALID, "OPTION_UNKNOWN", "expected one of ENCODING_"),
        ({"request_id": "x" * 129}, INVALID, "INVALID_REQUEST", "128 bytes"),
        ({"model": "x" * 1_000_000}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "there is resnet_tiny"),
        ({"model": "naïve ☃\n\0"}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "naïve ☃\\n\\x00"),
        ({"outputs": ["x" * 1_000_000]}, INVALID, "OUTPUT_UNKNOWN", "there is embedding"),
        (
            {"expected_fingerprint": "x" * 1_000_000},
            grpc.StatusCode.FAILED_PRECONDITION,
            "FINGERPRINT_MISMATCH",
            "cannot be compared",
        ),
    ],
    ids=[
        "model",
        "output",
        "encoding",
        "long id",
        "long model",
        "odd model",
        "long output",
        "long fingerprint",
    ],
)
def test_a_request_that_cannot_be(refused, pictures, fields, code, expected_reason, words):  # noqa: PLR0917
    """What concerns the whole request is the call's status, with what was expected in its message."""
    given, because, message = refused(pb.ExtractRequest(images=pictures(1), **fields))
    assert (given, because) == (code, expected_reason)
    assert words in message


def test_no_image(refused):
    """A request without images is an error, not an empty answer."""
    code, because, message = refused(pb.ExtractRequest())
    assert (code, because) == (INVALID, "NO_IMAGES")
    assert "expected at least one" in message


def test_ten_thousand_images(refused, pictures):
    """More images than a request may hold are refused before any is looked at."""
    code, because, message = refused(pb.ExtractRequest(images=pictures(1) * 10_000))
    assert (code, because) == (INVALID, "TOO_MANY_IMAGES")
    assert "more than 256 images" in message


def test_thirty_million_images(shared, refused, pictures):
    """A message of empty images, two bytes each, is refused before it takes gigabytes to hold them."""
    before = psutil.Process().memory_info().rss
    call = shared.channel.unary_unary("/regard.v1.FeatureService/Extract")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\x12\0" * (30 << 20), timeout=30)
    assert error.value.code() is not grpc.StatusCode.OK
    assert psutil.Process().memory_info().rss - before < 600 << 20
    assert refused(pb.ExtractRequest(images=pictures(1) * 257))[1] == "TOO_MANY_IMAGES"


def test_a_message_of_200_megabytes(shared, pictures):
    """A message beyond the limit is refused by gRPC itself, and the connection stays usable."""
    request = pb.ExtractRequest(images=[pb.Image(encoded=bytes(200 << 20))])
    with pytest.raises(grpc.RpcError) as error:
        shared.features.Extract(request, timeout=30)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(64 << 20) in error.value.details()
    assert shared.extract(*pictures(1)).results


@pytest.mark.parametrize("method", ["Extract", "ListModels", "GetModel"])
def test_bytes_that_are_no_message(shared, pictures, reason, method):
    """Bytes that are no protobuf are the caller's fault, cost their call, and nothing else."""
    call = shared.channel.unary_unary(f"/regard.v1.FeatureService/{method}")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\xff" * 100, timeout=30)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error.value) == "REQUEST_MALFORMED"
    assert shared.extract(*pictures(1)).results
    shared.assert_empty()


def test_bytes_that_are_no_message_on_a_stream(shared, pictures, reason):
    """What was read before them is answered, and then the stream ends as the caller's fault."""
    good = pb.ExtractRequest(images=pictures(1), request_id="good").SerializeToString()
    stream = shared.channel.stream_stream("/regard.v1.FeatureService/StreamExtract")
    answers = stream(iter([good, b"\xff" * 100, good]), timeout=30)
    assert pb.ExtractResponse.FromString(next(answers)).request_id == "good"
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error.value) == "REQUEST_MALFORMED"
    shared.assert_empty()
    assert shared.journal.count("a bug in") == 0


def test_a_health_check_that_is_no_message(shared):
    """Another service's messages are refused by the front end; nothing of ours is a bug then."""
    with pytest.raises(grpc.RpcError) as error:
        shared.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff" * 100, timeout=30)
    assert error.value.code() in {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }  # grpc.aio's own is UNKNOWN
    assert shared.check() == "SERVING"


def test_a_reply_that_would_be_too_large_is_refused_before_it_is_computed(serve, pictures, reason):
    """Many maps at once are refused with the size that they would have; fewer are answered."""
    served = serve(max_reply_bytes=10_000)
    assert served.extract(*pictures(4), outputs=["layer1"]).ByteSize() < 10_000  # 8×8×8 float32 each
    batches = len(served.gate.batches)
    with pytest.raises(grpc.RpcError) as error:
        served.extract(*pictures(5), outputs=["layer1"])
    assert (error.value.code(), reason(error.value)) == (INVALID, "REPLY_TOO_LARGE")
    assert "for 5 images" in error.value.details()
    assert len(served.gate.batches) == batches
    small = {"outputs": ["layer1"], "encoding": pb.ENCODING_FLOAT16}
    assert len(served.extract(*pictures(8), **small).results) == 8


def test_the_client_asks_for_less_at_a_time(serve):
    """`results` halves its messages until their replies are let through."""
    served = serve(max_reply_bytes=10_000)
    with Client(served.server.address) as client:
        maps = list(client.extract_many([np.zeros((32, 32, 3), np.uint8)] * 30, output="layer1"))
    assert [each.shape for each in maps] == [(8, 8, 8)] * 30


def test_a_method_that_is_not_there(shared):
    """A newer client's method is UNIMPLEMENTED."""
    call = shared.channel.unary_unary("/regard.v1.FeatureService/Paint")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=30)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_beyond_all_measure(shared, pictures):
    """Headers of megabytes are refused by gRPC, and the server serves on."""
    with pytest.raises(grpc.RpcError) as error:
        shared.extract(*pictures(1), metadata=[("x-request-id", "y" * 1_000_000)])
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert shared.extract(*pictures(1)).results


def test_a_deadline_that_has_passed(serve, pictures, monkeypatch):
    """Nothing is computed for a caller who has stopped waiting by the time that the server looks at his call."""
    came, stalling = threading.Event(), threading.Event()

    def stalled_parser(*arguments):
        parse = bounded_parser(*arguments)

        def stalled(data):
            if stalling.is_set():
                came.set()
                time.sleep(served.expires_s)  # as long as the caller waits, who began before
            return parse(data)

        return stalled

    monkeypatch.setattr(app, "bounded_parser", stalled_parser)
    served = serve()
    stalling.set()
    # Not one without any time: gRPC rounds up to the next millisecond, in which a quick server answers.
    served.expire(came.is_set, *pictures(1))
    served.journal.until("Extract DEADLINE_EXCEEDED")
    stalling.clear()
    assert served.extract(*pictures(1)).results
    assert served.gate.batches == [1]
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="late")
    served.assert_empty()


@pytest.fixture
def slow_decoding(monkeypatch):
    """Hold every decoding of a file until it is let go: (began, go)."""
    began, go, read_jpeg = threading.Semaphore(0), threading.Event(), images.read_jpeg

    def slow(*arguments):
        began.release()
        assert go.wait(30)
        return read_jpeg(*arguments)

    monkeypatch.setattr(images, "read_jpeg", slow)
    yield began, go
    go.set()


def test_a_client_who_leaves_while_his_image_is_decoded(serve, pictures, slow_decoding):
    """What was being decoded is thrown away; it reaches no batch."""
    served = serve()
    began, go = slow_decoding
    future = served.begin(pb.Image(encoded=jpeg()))
    assert began.acquire(timeout=30)
    future.cancel()
    served.journal.until("Extract CANCELLED")
    served.assert_empty()
    go.set()
    assert served.extract(*pictures(1)).results
    assert served.gate.batches == [1]
    assert served.metric("regard_items_total", model="resnet_tiny", outcome="cancelled") == 1


def test_a_client_who_leaves_before_his_images_are_decoded(serve, pictures, slow_decoding):
    """Images of a caller who is gone are not decoded at all, however many there were."""
    served = serve(decode_threads=1)
    began, go = slow_decoding
    future = served.begin(*[pb.Image(encoded=jpeg())] * 50)
    assert began.acquire(timeout=30)
    future.cancel()
    served.journal.until("Extract CANCELLED")
    served.assert_empty()
    go.set()
    assert served.extract(*pictures(1)).results
    assert not began.acquire(blocking=False)
    assert served.gate.batches == [1]
