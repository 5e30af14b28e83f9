"""regard.v1 requests into the pipeline's: every field is either honoured or refused, never ignored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog, ServedModel
from regard_server.errors import (
    EmptyImageError,
    FingerprintMismatchError,
    ImageTooLargeError,
    InvalidRequestError,
    InvalidTensorError,
    NoImagesError,
    NonFiniteTensorError,
    TooManyImagesError,
    UnknownEncodingError,
    quote,
)
from regard_server.images import CHANNELS, ImageLimits, JpegReader, decode, fit_raw, fits
from regard_server.request import Picture, Request
from regard_server.servicers.reply_size import check_reply_size

MAX_REQUEST_ID_BYTES = 128
_DEFAULT_OUTPUTS = ("embedding",)
# A message may hold a shape of millions of axes; so many are looked at.
_MOST_AXES = 4
_OPTIONS: tuple[tuple[str, Any, frozenset[int]], ...] = (
    ("encoding", pb.Encoding, frozenset(pb.Encoding.values())),
    ("priority", pb.Priority, frozenset(pb.Priority.values())),
    ("attention_reduction", pb.AttentionReduction, frozenset(pb.AttentionReduction.values())),
)
# A tensor of this size is checked and copied in about 50 µs, which is less than a hop to a decoder thread.
_QUICK_BYTES = 1 << 18
# So much is gathered into one picture: the event loop copies it in one go, in some 50 µs.
_GATHERED_BYTES = 1 << 20
# Fewer are as quick one by one.
_FEWEST_GATHERED = 2
# The share of a caller's time, and the most of it, that is kept for the answer's way: one that leaves at the deadline
# comes after it, and was computed for nobody. Below the least, a timer's grain and a hop between threads eat it up; of
# a time shorter than that, half is left to compute in.
_WAY_HOME = 0.02
_SHORTEST_WAY_HOME_S = 0.002
_LONGEST_WAY_HOME_S = 0.05
_PRIORITIES = {pb.PRIORITY_UNSPECIFIED: 0, pb.PRIORITY_INTERACTIVE: 0, pb.PRIORITY_BULK: 1}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold."""

    max_images: int
    image: ImageLimits
    max_message_bytes: int
    max_tensor_side: int
    max_reply_bytes: int


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
    if not message.images:
        raise NoImagesError("the request holds no image; expected at least one")
    if len(message.images) > limits.max_images:
        raise TooManyImagesError(
            f"the request holds more than {limits.max_images} images, which is the limit. "
            "Send several requests, or use StreamExtract"
        )
    outputs = tuple(dict.fromkeys(message.outputs)) or _DEFAULT_OUTPUTS
    model.check_outputs(outputs)
    pictures = _to_pictures(message.images, model, limits, jpeg_reader, gather=gather)
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


def answer_by(arrived: float, timeout_s: float) -> float:
    """Return until when an answer has to leave, to be with its caller in time."""
    way_home_s = max(_WAY_HOME * timeout_s, _SHORTEST_WAY_HOME_S)
    return arrived + timeout_s - min(way_home_s, _LONGEST_WAY_HOME_S, timeout_s / 2)


def _check_options(message: pb.ExtractRequest) -> None:
    for field, enum, known in _OPTIONS:
        value = getattr(message, field)
        if value not in known:
            names = ", ".join(enum.keys())
            raise UnknownEncodingError(f"{field} {value} is unknown to this server; expected one of {names}")
    if len(message.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(f"request_id is longer than {MAX_REQUEST_ID_BYTES} bytes")


def _to_pictures(
    images: Sequence[pb.Image],
    model: ServedModel,
    limits: RequestLimits,
    jpeg_reader: JpegReader | None,
    *,
    gather: bool,
) -> list[Picture]:
    """Return the pictures of a request, in order; neighbours that are ready for the network may be one."""
    prepared = model.preprocessing
    height, width = prepared.height, prepared.width
    size_bytes = height * width * CHANNELS
    most = _GATHERED_BYTES // size_bytes if gather and fits(height, width, prepared) else 0
    if most < _FEWEST_GATHERED or len(images) < _FEWEST_GATHERED or height * width > limits.image.max_pixels:
        return [_to_picture(image, model, limits, jpeg_reader) for image in images]
    pictures: list[Picture] = []
    alike: list[pb.RawImage] = []
    for image in images:
        raw = image.raw
        ready = raw.height == height and raw.width == width and len(raw.data) == size_bytes
        if alike and (not ready or len(alike) == most):
            pictures.append(_gathered(alike, size_bytes, height, width))
            alike = []
        if ready:
            alike.append(raw)
        else:
            pictures.append(_to_picture(image, model, limits, jpeg_reader))
    if alike:
        pictures.append(_gathered(alike, size_bytes, height, width))
    return pictures


def _gathered(alike: Sequence[pb.RawImage], size_bytes: int, height: int, width: int) -> Picture:
    """Return pictures that were found to be of the network's own size as one."""
    return Picture(
        lambda: [raw.data for raw in alike],
        len(alike) * size_bytes,
        "pixels",
        height,
        width,
        quick=True,
        images=len(alike),
    )


def _to_picture(
    image: pb.Image, model: ServedModel, limits: RequestLimits, jpeg_reader: JpegReader | None
) -> Picture:
    prepared = model.preprocessing
    height, width = prepared.height, prepared.width
    match image.WhichOneof("source"):
        case "encoded":
            # Every look at the field is a copy of it: none is kept beside the message's own.
            return Picture(
                lambda: [decode(image.encoded, limits.image, prepared, jpeg_reader)],
                len(image.encoded),
                "pixels",
                height,
                width,
                content=lambda: (b"encoded", image.encoded),
            )
        case "raw":
            raw = image.raw
            return Picture(
                lambda: [fit_raw(raw.data, raw.height, raw.width, limits.image, prepared)],
                len(raw.data),
                "pixels",
                height,
                width,
                quick=fits(raw.height, raw.width, prepared),
                content=lambda: (b"raw", b"%d %d" % (raw.height, raw.width), raw.data),
            )
        case "tensor":
            tensor = image.tensor
            size = len(tensor.data)
            height, width = tuple(tensor.shape)[-2:] if len(tensor.shape) == 3 else (0, 0)  # noqa: PLR2004 - C, H, W
            return Picture(
                lambda: [_read_tensor(tensor, model, limits)],
                size,
                "tensor",
                height,
                width,
                quick=size <= _QUICK_BYTES,
                content=lambda: (b"tensor", _kind_of(tensor), tensor.data),
            )
        case _:
            return Picture(_read_nothing, 0, "pixels", height, width, quick=True)


def _kind_of(tensor: pb.Tensor) -> bytes:
    """Return what, besides its bytes, decides whether a tensor is valid and what it means."""
    return repr((tensor.dtype, *tensor.shape[: _MOST_AXES + 1])).encode()


def _is_small(picture: Picture, limits: RequestLimits) -> bool:
    return max(picture.height, picture.width) <= limits.max_tensor_side


def _read_nothing() -> list[Any]:
    raise EmptyImageError("the image has no source; expected encoded, raw or tensor to be set")


def _read_tensor(tensor: pb.Tensor, model: ServedModel, limits: RequestLimits) -> npt.NDArray[np.float32]:
    """Read a picture that is ready for the network: (3, H, W) float32.

    Raises:
        InvalidTensorError: another type, shape or number of bytes.
        ImageTooLargeError: more rows or columns than allowed.
        NonFiniteTensorError: NaN or infinity in it.
    """
    low, high = model.min_side, limits.max_tensor_side
    wanted = f"expected float32 of shape (3, H, W), H and W from {low} to {high}"
    axes = len(tensor.shape)
    shape = tuple(tensor.shape[:_MOST_AXES])
    if tensor.dtype != pb.DATA_TYPE_FLOAT32 or axes != 3 or shape[0] != 3 or min(shape) < 1:  # noqa: PLR2004 - C, H, W
        name = pb.DataType.Name(tensor.dtype) if tensor.dtype in pb.DataType.values() else tensor.dtype
        described = f"of shape {shape}" if axes <= _MOST_AXES else f"with {axes} axes"
        raise InvalidTensorError(f"the tensor is {name} {described}; {wanted}")
    if max(shape) > high:
        raise ImageTooLargeError(f"the tensor has shape {shape}; {wanted}")
    if min(shape[1:]) < low:
        raise InvalidTensorError(f"the tensor has shape {shape}; {wanted}")
    try:
        values = tensors.to_array(tensor)
    except tensors.MalformedTensorError as error:
        raise InvalidTensorError(f"{error}; {wanted}") from error
    if not np.isfinite(values).all():
        raise NonFiniteTensorError("the tensor holds NaN or infinity; expected finite numbers")
    return values
