"""A request's images into the pipeline's pictures: how each will be read, and which may go their way together.

    encoded                          decoded in the pool            Picture
    raw, of another size             resized in the pool            Picture
    raw, of the network's own size   neighbours, up to a megabyte   one Picture of several
    tensor                           checked and copied             Picture

Nothing is read here: a bad image is found later, and fails alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import ServedModel
from regard_server.errors import EmptyImageError, ImageTooLargeError, InvalidTensorError, NonFiniteTensorError
from regard_server.images import CHANNELS, JpegReader, decode, fit_raw, fits
from regard_server.request import Picture
from regard_server.servicers.limits import RequestLimits

# A message may hold a shape of millions of axes; so many are looked at.
_MOST_AXES = 4
# A tensor of this size is checked and copied in about 50 µs, which is less than a hop to a decoder thread.
_QUICK_BYTES = 1 << 18
# So much is gathered into one picture: the event loop copies it in one go, which takes it 0.1 to 0.3 ms.
_GATHERED_BYTES = 1 << 20
# Fewer are as quick one by one.
_FEWEST_GATHERED = 2


def to_pictures(
    images: Sequence[pb.Image],
    model: ServedModel,
    limits: RequestLimits,
    jpeg_reader: JpegReader | None,
    *,
    gather: bool,
) -> list[Picture]:
    """Return the pictures of a request, in order; neighbours that are ready for the network may be one."""
    if not gather or len(images) < _FEWEST_GATHERED:
        return [_to_picture(image, model, limits, jpeg_reader) for image in images]
    prepared = model.preprocessing
    height, width = prepared.height, prepared.width
    size_bytes = height * width * CHANNELS
    most = _GATHERED_BYTES // size_bytes if fits(height, width, prepared) else 0
    if most < _FEWEST_GATHERED or height * width > limits.image.max_pixels:
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
