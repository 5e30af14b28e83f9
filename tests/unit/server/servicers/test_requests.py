"""regard.v1 requests into the pipeline's."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from served_models import TINY

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog, ModelState
from regard_server.errors import (
    EmptyImageError,
    FingerprintMismatchError,
    ImageTooLargeError,
    InvalidPixelsError,
    InvalidRequestError,
    InvalidTensorError,
    ModelNotFoundError,
    NoImagesError,
    NonFiniteTensorError,
    TooManyImagesError,
    UnknownEncodingError,
    UnknownFormatError,
    UnknownOutputError,
)
from regard_server.images import ImageLimits
from regard_server.servicers import pictures
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.requests import answer_by, to_request

LIMITS = RequestLimits(
    max_images=3,
    image=ImageLimits(max_bytes=1000, max_pixels=100),
    max_message_bytes=4096,
    max_tensor_side=8,
    max_reply_bytes=1 << 20,
)
RAW = pb.Image(raw=pb.RawImage(height=4, width=4, data=bytes(48)))


@pytest.fixture(scope="module")
def catalog():
    catalog = Catalog(["tiny"])
    catalog.add(TINY)
    catalog.set_states(ModelState.READY)
    return catalog


@pytest.fixture
def translate(catalog):
    """Translate a message of these fields."""

    def translate(**fields):
        message = pb.ExtractRequest(**{"images": [RAW], **fields})
        return to_request(message, catalog, LIMITS, arrived=1.0, deadline=2.0)[0]

    return translate


@pytest.fixture
def read(translate):
    """Read the only picture of a request."""
    return lambda image: translate(images=[image]).pictures[0].read()[0]


def test_jpegs_go_to_the_reader_that_is_given_first(catalog):
    """An encoded image goes to the reader that is given, and the host reads what that one leaves."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "JPEG")
    given = np.ones((TINY.preprocessing.height, TINY.preprocessing.width, 3), np.uint8)
    answers = [given, None]
    message = pb.ExtractRequest(images=[pb.Image(encoded=file.getvalue())])
    request, _ = to_request(
        message, catalog, LIMITS, arrived=1.0, deadline=2.0, jpeg_reader=lambda *_: answers.pop(0)
    )
    assert request.pictures[0].read()[0] is given
    assert request.pictures[0].read()[0].tolist() != given.tolist()
    assert not answers


def zeros(*shape, dtype=pb.DATA_TYPE_FLOAT32, data=None):
    return pb.Image(
        tensor=pb.Tensor(dtype=dtype, shape=shape, data=bytes(4 * math.prod(shape)) if data is None else data)
    )


def filled(value):
    return pb.Image(tensor=tensors.from_array(np.full((3, 5, 6), value, np.float32)))


@pytest.mark.parametrize(
    ("timeout_s", "images", "way_home_s"),
    [
        (0.0, 1, 0.0),
        (0.001, 1, 0.0005),
        (0.01, 1, 0.00201),
        (0.25, 1, 0.00501),
        (2.0, 1, 0.04001),
        (10.0, 1, 0.05),
        (3600.0, 1, 0.05),
        (0.006, 256, 0.003),
        (0.02, 256, 0.00456),
        (0.25, 256, 0.00756),
        (10.0, 256, 0.05),
    ],
)
def test_an_answer_leaves_before_its_caller_gives_up(timeout_s, images, way_home_s):
    """Kept for its way: 2 % of his time, 2 ms at least, and 10 µs an image; 50 ms at most, and at most half."""
    way_s = 100.0 + timeout_s - answer_by(100.0, timeout_s, images)
    assert way_s == pytest.approx(way_home_s, abs=1e-9)


def test_absent_fields_have_the_meaning_that_the_proto_says(translate):
    """Without a model, outputs and a priority: the default, the embedding, interactive."""
    request = translate()
    assert (request.model, request.outputs, request.priority) == (TINY, ("embedding",), 0)
    assert (request.arrived, request.deadline) == (1.0, 2.0)
    assert [picture.size_bytes for picture in request.pictures] == [48]


def test_outputs_keep_their_order_and_lose_their_doubles(translate):
    """An output that is named twice is given once."""
    assert translate(outputs=["logits", "embedding", "logits"]).outputs == ("logits", "embedding")


def test_bulk_goes_after_interactive(translate):
    """The two classes of the API are the scheduler's two."""
    assert (
        translate(priority=pb.PRIORITY_INTERACTIVE).priority < translate(priority=pb.PRIORITY_BULK).priority
    )


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"images": []}, NoImagesError, "expected at least one"),
        ({"images": [RAW] * 4}, TooManyImagesError, "holds more than 3 images"),
        ({"model": "tinny"}, ModelNotFoundError, "'tinny' is served; did you mean tiny"),
        ({"outputs": ["embedding", "logit"]}, UnknownOutputError, "'logit'; did you mean logits"),
        ({"encoding": 99}, UnknownEncodingError, "encoding 99 .* ENCODING_FLOAT16"),
        ({"priority": 99}, UnknownEncodingError, "priority 99 .* PRIORITY_BULK"),
        (
            {"attention_reduction": 99},
            UnknownEncodingError,
            "attention_reduction 99 .* ATTENTION_REDUCTION_MEAN_QUERIES",
        ),
        ({"request_id": "é" * 65}, InvalidRequestError, "longer than 128 bytes"),
        ({"expected_fingerprint": "00"}, FingerprintMismatchError, "expected '00'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_honoured_is_refused(translate, fields, error, words):
    """Every fault of a whole request has its own error, which says what was expected."""
    with pytest.raises(error, match=words):
        translate(**fields)


def test_the_right_fingerprint_is_let_in(translate):
    """A caller who expects this very model is served."""
    assert translate(expected_fingerprint=TINY.fingerprint).model is TINY


def test_what_a_caller_sent_is_quoted_in_short(translate):
    """A name of a megabyte is neither searched for near names nor sent back in full."""
    with pytest.raises(ModelNotFoundError) as error:
        translate(model="tiny" * 250_000)
    assert len(error.value.message) < 250


def test_a_bad_picture_is_found_when_it_is_read_not_before(translate):
    """Translation looks at no picture, so that a bad one fails alone."""
    good, bad = translate(images=[RAW, pb.Image(encoded=b"text")]).pictures
    assert good.read()[0].shape == (4, 4, 3)
    with pytest.raises(UnknownFormatError):
        bad.read()


@pytest.mark.parametrize("most", [2, 3, 100])
def test_neighbours_that_are_ready_for_the_network_go_their_way_together(catalog, monkeypatch, most):
    """Pictures of the network's own size are gathered, in order and up to a limit; others stay by themselves."""
    monkeypatch.setattr(pictures, "_GATHERED_BYTES", 48 * most)
    ready = [pb.Image(raw=pb.RawImage(height=4, width=4, data=bytes([number]) * 48)) for number in range(5)]
    others = [
        pb.Image(raw=pb.RawImage(height=5, width=4, data=bytes(60))),
        pb.Image(raw=pb.RawImage(height=4, width=4, data=bytes(47))),
        pb.Image(encoded=b"text"),
        pb.Image(),
    ]
    images = [*ready, others[0], ready[0], others[1], *ready[:2], *others[2:], ready[0]]
    limits = replace(LIMITS, max_images=len(images))
    message = pb.ExtractRequest(images=images)
    request, _ = to_request(message, catalog, limits, arrived=1.0, deadline=2.0, gather=True)
    sizes = [min(most, 5 - start) for start in range(0, 5, most)]
    assert [each.images for each in request.pictures] == [*sizes, 1, 1, 1, 2, 1, 1, 1]
    assert request.images == len(images)
    gathered = [*request.pictures[: len(sizes)], request.pictures[len(sizes) + 3]]
    assert all(each.quick and each.size_bytes == 48 * each.images for each in gathered)
    assert [bytes(one) for each in gathered for one in each.read()] == [
        image.raw.data for image in (*ready, *ready[:2])
    ]


@pytest.mark.parametrize("largest", [15, 16])
def test_pictures_are_not_gathered_past_the_limit_on_pixels(catalog, largest):
    """A limit below the network's own size is each picture's to be refused by."""
    limits = replace(LIMITS, image=ImageLimits(max_bytes=1000, max_pixels=largest))
    message = pb.ExtractRequest(images=[RAW, RAW])
    request, _ = to_request(message, catalog, limits, arrived=1.0, deadline=2.0, gather=True)
    assert [each.images for each in request.pictures] == ([2] if largest == 16 else [1, 1])


def ready_tensor(value):
    return pb.Image(tensor=tensors.from_array(np.full((3, 4, 4), value, np.float32)))


def translated(catalog, images, **limits):
    """Return the pictures of images that may be gathered."""
    within = replace(LIMITS, max_images=len(images), **limits)
    message = pb.ExtractRequest(images=images)
    return to_request(message, catalog, within, arrived=1.0, deadline=2.0, gather=True)[0].pictures


def test_tensors_that_are_ready_for_the_network_go_their_way_together(catalog, monkeypatch):
    """Those of the network's own size are gathered like pixels, but not with them, and others stay by themselves."""
    monkeypatch.setattr(pictures, "_GATHERED_BYTES", 192 * 3)
    ready = [ready_tensor(number) for number in range(5)]
    others = [
        zeros(3, 4, 5),
        zeros(4, 4, 3),
        zeros(3, 4, 4, data=bytes(191)),
        zeros(3, 4, 4, dtype=pb.DATA_TYPE_UNSPECIFIED),
        zeros(3, 4, 4, *[1] * 1000),
        zeros(48),
    ]
    found = translated(catalog, [*ready, RAW, RAW, ready[0], RAW, *ready[:2], *others])
    forms = [(each.form, each.images) for each in found[:6]]
    assert forms == [("tensor", 3), ("tensor", 2), ("pixels", 2), ("tensor", 1), ("pixels", 1), ("tensor", 2)]
    assert [each.images for each in found[6:]] == [1] * len(others)
    together = [found[0], found[1], found[5]]
    assert all(each.quick and each.size_bytes == 192 * each.images for each in together)
    assert [bytes(one) for each in together for one in each.read()] == [
        image.tensor.data for image in (*ready, *ready[:2])
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_fails_alone_among_those_of_its_size(catalog, value):
    """It is read by itself, and so are those that might have gone with it."""
    first, bad, last = translated(catalog, [ready_tensor(1.0), ready_tensor(value), ready_tensor(2.0)])
    with pytest.raises(NonFiniteTensorError, match="NaN or infinity"):
        bad.read()
    assert [each.read()[0].mean() for each in (first, last)] == [1.0, 2.0]


@pytest.mark.parametrize("limit", [3, 4])
def test_tensors_are_not_gathered_past_the_limit_on_their_sides(catalog, limit):
    """A limit below the network's own size is each tensor's to be refused by."""
    found = translated(catalog, [ready_tensor(1.0)] * 2, max_tensor_side=limit)
    assert [each.images for each in found] == ([2] if limit == 4 else [1, 1])


def test_large_tensors_are_read_in_the_pool_one_by_one(catalog, monkeypatch):
    """Of which two would be more than is gathered: pixels of the same size may still go together."""
    monkeypatch.setattr(pictures, "_GATHERED_BYTES", 192 * 2 - 1)
    monkeypatch.setattr(pictures, "_QUICK_BYTES", 191)
    found = translated(catalog, [ready_tensor(1.0)] * 2 + [RAW] * 2)
    assert [(each.images, each.quick) for each in found] == [(1, False), (1, False), (2, True)]


def test_a_tensor_is_given_as_it_is(read):
    """A ready tensor is neither resized nor normalised."""
    values = np.arange(3 * 5 * 6, dtype=np.float32).reshape(3, 5, 6)
    np.testing.assert_array_equal(read(pb.Image(tensor=tensors.from_array(values))), values)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (pb.Image(), EmptyImageError, "expected encoded, raw or tensor"),
        (pb.Image(encoded=b""), EmptyImageError, "zero bytes"),
        (pb.Image(encoded=b"x" * 1001), ImageTooLargeError, "1001 bytes; at most 1000"),
        (pb.Image(raw=pb.RawImage(height=2, width=2, data=b"x")), InvalidPixelsError, "1 bytes; expected"),
        (zeros(5, 6), InvalidTensorError, r"FLOAT32 of shape \(5, 6\); expected float32 of shape \(3, H, W"),
        (zeros(1, 3, 5, 6), InvalidTensorError, r"shape \(1, 3, 5, 6\); expected"),
        (zeros(5, 6, 3), InvalidTensorError, r"shape \(5, 6, 3\); expected"),
        (zeros(4, 5, 6), InvalidTensorError, r"shape \(4, 5, 6\); expected"),
        (zeros(3, 0, 6), InvalidTensorError, r"shape \(3, 0, 6\); expected"),
        (zeros(3, 1, 6), InvalidTensorError, "H and W from 2 to 8"),
        (zeros(3, 9, 6), ImageTooLargeError, "H and W from 2 to 8"),
        (zeros(3, 5, 6, dtype=pb.DATA_TYPE_UINT8), InvalidTensorError, "UINT8"),
        (zeros(3, 5, 6, dtype=pb.DATA_TYPE_UNSPECIFIED), InvalidTensorError, "UNSPECIFIED"),
        (zeros(3, 5, 6, dtype=77), InvalidTensorError, "is 77 of"),
        (zeros(3, 5, 6, data=bytes(359)), InvalidTensorError, "359 bytes; expected 360"),
        (zeros(*[0] * 1000, data=b""), InvalidTensorError, "FLOAT32 with 1000 axes; expected"),
        (zeros(data=b""), InvalidTensorError, r"shape \(\); expected"),
        (filled(math.nan), NonFiniteTensorError, "NaN or infinity; expected finite"),
        (filled(-math.inf), NonFiniteTensorError, "NaN or infinity; expected finite"),
    ],
)
def test_a_picture_that_cannot_be_used(read, image, error, words):
    """Every fault of a picture has its own error, which says what was expected."""
    with pytest.raises(error, match=words):
        read(image)
