"""regard.v1 requests into the pipeline's: every field is either honoured or refused, never ignored."""

from typing import Any

from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog
from regard_server.errors import (
    FingerprintMismatchError,
    InvalidRequestError,
    NoImagesError,
    TooManyImagesError,
    UnknownEncodingError,
    quote,
)
from regard_server.images import JpegReader
from regard_server.request import Picture, Request
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.pictures import to_pictures
from regard_server.servicers.reply_size import check_reply_size

MAX_REQUEST_ID_BYTES = 128
_DEFAULT_OUTPUTS = ("embedding",)
_OPTIONS: tuple[tuple[str, Any, frozenset[int]], ...] = (
    ("encoding", pb.Encoding, frozenset(pb.Encoding.values())),
    ("priority", pb.Priority, frozenset(pb.Priority.values())),
    ("attention_reduction", pb.AttentionReduction, frozenset(pb.AttentionReduction.values())),
)
# The share of a caller's time, and the most of it, that is kept for the answer's way: one that leaves at the deadline
# comes after it, and was computed for nobody. Below the least, a timer's grain and a hop between threads eat it up; of
# a time shorter than that, half is left to compute in.
_WAY_HOME = 0.02
_SHORTEST_WAY_HOME_S = 0.002
_LONGEST_WAY_HOME_S = 0.05
# Besides, for every image that is to be encoded, sent and received: 4 µs where images were gathered, 10 where not.
_IMAGE_S = 10e-6
_PRIORITIES = {pb.PRIORITY_UNSPECIFIED: 0, pb.PRIORITY_INTERACTIVE: 0, pb.PRIORITY_BULK: 1}


def to_request(
    message: pb.ExtractRequest,
    catalog: Catalog,
    limits: RequestLimits,
    *,
    arrived: float,
    deadline: float,
    patient: bool = False,
    client: str = "",
    jpeg_reader: JpegReader | None = None,
    gather: bool = False,
) -> tuple[Request, str]:
    """Return what the pipeline is asked, and the model's fingerprint. Images are looked at later, one by one.

    `jpeg_reader` is who reads JPEGs first, if not the host; `gather` whether small pictures that need no reading may go
    their way together.

    Raises:
        ModelNotFoundError, UnavailableError: see `Catalog.find`.
        FingerprintMismatchError: the caller expects another model.
        InvalidRequestError: no images or too many, an unknown output, encoding, priority or reduction, a long id,
            or more bytes of outputs than one reply may hold.
    """
    model, fingerprint = catalog.find(message.model)
    if message.expected_fingerprint and message.expected_fingerprint != fingerprint:
        raise FingerprintMismatchError(
            f"model {model.name!r} has fingerprint {fingerprint}; expected {quote(message.expected_fingerprint)}. "
            "Its vectors cannot be compared with those you have"
        )
    _check_options(message)
    images = message.images  # every look at the field makes an object
    if not images:
        raise NoImagesError("the request holds no image; expected at least one")
    if len(images) > limits.max_images:
        raise TooManyImagesError(
            f"the request holds more than {limits.max_images} images, which is the limit. "
            "Send several requests, or use StreamExtract"
        )
    named = message.outputs
    outputs = tuple(dict.fromkeys(named)) if named else _DEFAULT_OUTPUTS
    model.check_outputs(outputs)
    pictures = to_pictures(images, model, limits, jpeg_reader, gather=gather)
    # Tensors beyond the limit are refused one by one.
    answered = [each for each in pictures if each.form == "pixels" or _is_small(each, limits)]
    check_reply_size(message, model, answered, outputs, limits.max_reply_bytes)
    request = Request(
        model=model,
        pictures=pictures,
        outputs=outputs,
        arrived=arrived,
        deadline=deadline,
        priority=_PRIORITIES[message.priority],
        patient=patient,
        client=client,
    )
    return request, fingerprint


def answer_by(arrived: float, timeout_s: float, images: int = 1) -> float:
    """Return until when an answer about so many images has to leave, to be with its caller in time."""
    way_home_s = max(_WAY_HOME * timeout_s, _SHORTEST_WAY_HOME_S) + _IMAGE_S * images
    return arrived + timeout_s - min(way_home_s, _LONGEST_WAY_HOME_S, timeout_s / 2)


def _check_options(message: pb.ExtractRequest) -> None:
    for field, enum, known in _OPTIONS:
        value = getattr(message, field)
        if value not in known:
            names = ", ".join(enum.keys())
            raise UnknownEncodingError(f"{field} {value} is unknown to this server; expected one of {names}")
    if len(message.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(f"request_id is longer than {MAX_REQUEST_ID_BYTES} bytes")


def _is_small(picture: Picture, limits: RequestLimits) -> bool:
    return max(picture.height, picture.width) <= limits.max_tensor_side
