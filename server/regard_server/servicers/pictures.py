"""A request's images into the pipeline's pictures: how each will be read, and which may go their way together.

    encoded                          decoded in the pool            Picture
    raw, of another size             resized in the pool            Picture
    raw, of the network's own size   neighbours, up to a megabyte   one Picture of several
    tensor                           checked and copied             Picture
    tensor, of that size             neighbours, if all are finite  one Picture of several

Nothing is decoded here: a bad image is found later, and fails alone. Tensors that may go together are looked at, since
one that is not finite has to go by itself; to make a picture of each took longer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import ServedModel
from regard_server.errors import EmptyImageError, ImageTooLargeError, InvalidTensorError, NonFiniteTensorError
from regard_server.fitting import CHANNELS
from regard_server.images import JpegReader, decode, fit_raw, fits
from regard_server.request import Picture
from regard_server.servicers.limits import RequestLimits

# A message may hold a shape of millions of axes; so many are looked at.
_MOST_AXES = 4
_FLOAT_BYTES = 4
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
    tensor_bytes = _FLOAT_BYTES * size_bytes
    takes_tensors = (
        _FEWEST_GATHERED * tensor_bytes <= _GATHERED_BYTES
        and model.min_side <= min(height, width)
        and max(height, width) <= limits.max_tensor_side
    )
    pictures: list[Picture] = []
    alike: list[Any] = []
    alike_bytes = 0  # of each of them, which tells their form
    for image in images:
        source: Any = image.raw
        if source.height == height and source.width == width and len(source.data) == size_bytes:
            ready_bytes = size_bytes
        else:
            source = image.tensor
            ready_bytes = tensor_bytes if takes_tensors and _is_ready(source, height, width) else 0
        if alike and (ready_bytes != alike_bytes or len(alike) == most):
            pictures += _gathered(alike, alike_bytes, model, limits)
            alike = []
        if not ready_bytes:
            pictures.append(_to_picture(image, model, limits, jpeg_reader))
            continue
        if not alike:
            alike_bytes, most = ready_bytes, _GATHERED_BYTES // ready_bytes
        alike.append(source)
    if alike:
        pictures += _gathered(alike, alike_bytes, model, limits)
    return pictures


def _is_ready(tensor: pb.Tensor, height: int, width: int) -> bool:
    """Tell whether a tensor is of the network's own size, and valid if all of it is finite."""
    return (
        tensor.dtype == pb.DATA_TYPE_FLOAT32
        and len(tensor.data) == _FLOAT_BYTES * CHANNELS * height * width
        and tuple(tensor.shape[:_MOST_AXES]) == (CHANNELS, height, width)
    )


def _gathered(
    alike: Sequence[Any], each_bytes: int, model: ServedModel, limits: RequestLimits
) -> list[Picture]:
    """Return images of one form that are of the network's own size as one, but for tensors that are not all finite."""
    height, width = model.preprocessing.height, model.preprocessing.width
    are_raw = each_bytes == height * width * CHANNELS
    if not are_raw and (len(alike) < _FEWEST_GATHERED or not _are_finite(alike)):
        return [_from_tensor(tensor, model, limits) for tensor in alike]
    return [
        Picture(
            lambda: [source.data for source in alike],
            len(alike) * each_bytes,
            "pixels" if are_raw else "tensor",
            height,
            width,
            quick=True,
            images=len(alike),
        )
    ]


def _are_finite(alike: Sequence[pb.Tensor]) -> bool:
    """Tell whether there is no NaN and no infinity in any of several tensors of float32."""
    return bool(np.isfinite(np.frombuffer(b"".join([each.data for each in alike]), "<f4")).all())


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
            return _from_tensor(image.tensor, model, limits)
        case _:
            return Picture(_read_nothing, 0, "pixels", height, width, quick=True)


def _from_tensor(tensor: pb.Tensor, model: ServedModel, limits: RequestLimits) -> Picture:
    size = len(tensor.data)
    height, width = 0, 0  # what will be refused costs the device nothing
    if len(tensor.shape) == 3 and max(tensor.shape) <= limits.max_tensor_side:  # noqa: PLR2004 - C, H, W
        _, height, width = tensor.shape
    return Picture(
        lambda: [_read_tensor(tensor, model, limits)],
        size,
        "tensor",
        height,
        width,
        quick=size <= _QUICK_BYTES,
        content=lambda: (b"tensor", _kind_of(tensor), tensor.data),
    )


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
