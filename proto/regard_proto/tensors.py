"""The one table of element types, and arrays to and from `Tensor` messages.

    DataType    numpy      bits  on the wire
    UINT8       uint8        8   as it is
    INT8        int8         8   times Tensor.scale
    FLOAT16     float16     16   little-endian IEEE 754
    BFLOAT16    -           16   the upper half of a float32, little-endian
    FLOAT32     float32     32   little-endian IEEE 754
    BIT         bool         1   packed along the last axis, most significant bit first

numpy has no bfloat16: it is read and written as float32 here. Arrays that come back from `to_array` share
memory with the message where the element type allows it, and are then read-only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from regard_proto.v1 import features_pb2 as pb


@dataclass(frozen=True, slots=True)
class ElementType:
    """How the elements of one `DataType` lie in `Tensor.data`."""

    name: str
    storage: np.dtype[Any]
    bits: int

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return how many bytes a tensor of this shape takes; rows of bits are padded to whole bytes."""
        if self.bits >= 8:  # noqa: PLR2004 - a byte
            return math.prod(shape) * self.bits // 8
        rows, columns = (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)
        return rows * ((columns * self.bits + 7) // 8)


# numpy's own limits: 32 axes before numpy 2, and sizes in bytes that fit in 63 bits.
MAX_AXES: Final = 32
MAX_ELEMENTS: Final = 1 << 60

ELEMENT_TYPES: Final = MappingProxyType(
    {
        pb.DATA_TYPE_UINT8: ElementType("uint8", np.dtype("u1"), 8),
        pb.DATA_TYPE_INT8: ElementType("int8", np.dtype("i1"), 8),
        pb.DATA_TYPE_FLOAT16: ElementType("float16", np.dtype("<f2"), 16),
        pb.DATA_TYPE_BFLOAT16: ElementType("bfloat16", np.dtype("<u2"), 16),
        pb.DATA_TYPE_FLOAT32: ElementType("float32", np.dtype("<f4"), 32),
        pb.DATA_TYPE_BIT: ElementType("bit", np.dtype("u1"), 1),
    }
)

_FLOAT32: Final = ELEMENT_TYPES[pb.DATA_TYPE_FLOAT32].storage


class MalformedTensorError(ValueError):
    """A `Tensor` message whose fields contradict each other."""


def to_array(tensor: pb.Tensor) -> npt.NDArray[Any]:
    """Return a tensor's values: `shape` as sent, integers scaled to float32, bits as bool.

    Raises:
        MalformedTensorError: the type is unknown, the length is not the one that type and shape imply, or no array has
            such a shape.
    """
    dtype = tensor.dtype
    shape = tuple(tensor.shape[:])  # the field walked by itself takes twice as long
    data = tensor.data  # every look at the field is a copy of it
    # Nearly always an embedding: one axis, no longer than 32 bits say, and no other shape that has so many bytes.
    if dtype == pb.DATA_TYPE_FLOAT32 and len(shape) == 1 and len(data) == _FLOAT32.itemsize * shape[0]:
        return np.frombuffer(data, _FLOAT32)
    _check_shape(shape)
    element = _element_of(dtype, shape, len(data))
    stored = np.frombuffer(data, element.storage)
    if dtype == pb.DATA_TYPE_BIT:
        rows = stored.reshape(*shape[:-1], -1) if math.prod(shape) else stored.reshape(*shape[:-1], 0)
        columns = shape[-1] if shape else 1
        return np.unpackbits(rows, axis=-1, count=columns).astype(np.bool_).reshape(shape)
    if dtype == pb.DATA_TYPE_BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype == pb.DATA_TYPE_INT8:
        return (stored.astype(np.float32) * np.float32(tensor.scale)).reshape(shape)
    return stored.reshape(shape)


def to_own_array(tensor: pb.Tensor) -> npt.NDArray[Any]:
    """Return a tensor's values as `to_array` does, in memory that is no message's and may be written to."""
    array = to_array(tensor)
    return array if array.flags.writeable else array.copy()


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that no array can have; see `to_array`."""
    if len(shape) > MAX_AXES:
        raise MalformedTensorError(f"tensor has {len(shape)} axes; expected {MAX_AXES} at most")
    # An axis of length zero makes any shape cost no bytes, so the others are minded apart.
    if math.prod([length or 1 for length in shape]) > MAX_ELEMENTS:
        raise MalformedTensorError(f"tensor of shape {shape} is larger than any array can be")


def _element_of(dtype: pb.DataType.ValueType, shape: tuple[int, ...], nbytes: int) -> ElementType:
    """Return the element type, if a tensor of so many bytes can have it; see `to_array`."""
    element = ELEMENT_TYPES.get(dtype)
    if element is None:
        known = ", ".join(each.name for each in ELEMENT_TYPES.values())
        raise MalformedTensorError(f"tensor has no known dtype ({dtype}); expected one of {known}")
    expected = element.nbytes(shape)
    if nbytes != expected:
        raise MalformedTensorError(
            f"tensor of dtype {element.name} and shape {shape} holds {nbytes} bytes; expected {expected}"
        )
    return element


def from_array(array: npt.NDArray[Any], dtype: pb.DataType.ValueType = pb.DATA_TYPE_FLOAT32) -> pb.Tensor:
    """Write an array of numbers as a tensor of the given type, shape kept.

    Raises:
        MalformedTensorError: the type is unspecified or unknown, or values for INT8 are not finite.
    """
    (data,), scales = encode_rows(array[None], dtype)
    return pb.Tensor(dtype=dtype, shape=array.shape, data=bytes(data), scale=scales[0] if scales else 0.0)


def encode_rows(
    rows: npt.NDArray[Any], dtype: pb.DataType.ValueType
) -> tuple[Sequence[bytes | memoryview], Sequence[float]]:
    """Return the data of many tensors of one shape, given as (tensors, …), and the scale of each, if the type has one.

    What needs no scale is turned in one go, and copied no further.

    Raises:
        MalformedTensorError: see `from_array`.
    """
    cast_whole = _CASTS.get(dtype)
    if cast_whole is not None:
        if len(rows) == 1 or not rows.size:
            return [cast_whole(rows).tobytes()] * len(rows), ()
        whole: Any = np.ascontiguousarray(cast_whole(rows))  # Any: numpy's types know no buffers before 3.12
        data, length = memoryview(whole).cast("B"), whole.nbytes // len(whole)
        return [data[start : start + length] for start in range(0, whole.nbytes, length)], ()
    to_bytes = _WRITERS.get(dtype)
    if to_bytes is None:
        raise MalformedTensorError(f"no dtype {dtype}")
    written = [to_bytes(row) for row in rows]
    scales = [scale for _, scale in written]
    return [data for data, _ in written], scales if any(scales) else ()


def _write_int8(array: npt.NDArray[Any]) -> tuple[bytes, float]:
    largest = float(np.abs(array).max(initial=0.0))
    if not math.isfinite(largest):
        raise MalformedTensorError("NaN and infinity have no int8 form; expected finite values")
    # The scale travels as float32; dividing by that very value keeps the largest element at ±127.
    single = np.float32(largest / 127)
    if 127 * float(single) > float(np.finfo(np.float32).max):
        single = np.nextafter(single, np.float32(0))  # it was rounded up, and reading would overflow
    scale = float(single) or 1.0
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8).tobytes(), scale


def _to_bfloat16(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    single = np.ascontiguousarray(array, np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    halves = np.where(np.isnan(single), 0x7FC0, rounded)  # the sum above could carry a NaN into ±0
    return halves.astype("<u2")


def _write_bits(array: npt.NDArray[Any]) -> tuple[bytes, float]:
    return np.packbits(np.atleast_1d(array) > 0, axis=-1).tobytes(), 0.0


def _to_float16(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # beyond ±65504 becomes infinite, as the API says
        return array.astype("<f2")


# What is cast element by element, without a look at the others.
_CASTS: Final = MappingProxyType[pb.DataType.ValueType, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]](
    {
        pb.DATA_TYPE_UINT8: lambda array: array.astype("u1"),
        pb.DATA_TYPE_FLOAT16: _to_float16,
        pb.DATA_TYPE_BFLOAT16: _to_bfloat16,
        pb.DATA_TYPE_FLOAT32: lambda array: array.astype("<f4", copy=False),
    }
)


# What has to be looked at tensor by tensor.
_WRITERS: Final = MappingProxyType(
    {
        pb.DATA_TYPE_INT8: _write_int8,
        pb.DATA_TYPE_BIT: _write_bits,
    }
)

# What `Encoding` names is the same table; unspecified is float32.
ENCODING_TYPES: Final = MappingProxyType(
    {
        pb.ENCODING_UNSPECIFIED: pb.DATA_TYPE_FLOAT32,
        pb.ENCODING_FLOAT32: pb.DATA_TYPE_FLOAT32,
        pb.ENCODING_FLOAT16: pb.DATA_TYPE_FLOAT16,
        pb.ENCODING_BFLOAT16: pb.DATA_TYPE_BFLOAT16,
        pb.ENCODING_INT8: pb.DATA_TYPE_INT8,
        pb.ENCODING_BINARY: pb.DATA_TYPE_BIT,
    }
)
