"""Encode: the pipeline's results into the bytes of an `ExtractResponse`.

    head │ result: outcome, features │ output: name, dtype, shape │ data │ timings │ result … │ data │ timings │ …
           └────── the same bytes for all images of a Result ──────┘         └─ likewise

Messages written by protobuf are copied into each other, and cost the same for each of an image's dozen fields, of which
only the data differ. Here what is common to the images of a `Result` is written once, by protobuf, and joined with
their data, in one copy. Messages that stand one after another are their union, so parts may be written apart:
https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from regard_models import OutputInfo
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import RegardError
from regard_server.request import Request, Result, Timings
from regard_server.servicers.reply_size import REDUCED_AXES
from regard_server.servicers.status import to_status

_REQUEST_ID: Final = pb.ExtractResponse.REQUEST_ID_FIELD_NUMBER
_RESULTS: Final = pb.ExtractResponse.RESULTS_FIELD_NUMBER
_FEATURES: Final = pb.ExtractResult.FEATURES_FIELD_NUMBER
_TIMINGS: Final = pb.ExtractResult.TIMINGS_FIELD_NUMBER
_OUTPUTS: Final = pb.Features.OUTPUTS_FIELD_NUMBER
_TENSOR: Final = pb.Output.TENSOR_FIELD_NUMBER
_DATA: Final = pb.Tensor.DATA_FIELD_NUMBER
_SCALE_BYTES: Final = len(pb.Tensor(scale=1.0).SerializeToString())


def head(model: str, fingerprint: str, request_id: str) -> bytes:
    """Return everything of a reply but the results."""
    named = request_id.encode()
    return _head(model, fingerprint) + _opening(_REQUEST_ID, len(named)) + named


def encode(
    head: bytes, results: Sequence[Result], request: Request, message: pb.ExtractRequest
) -> tuple[bytes, int]:
    """Return a reply, and how many bytes of features are in it.

    Args:
        head: everything but the results.
        results: of all images, in order.
        request: what was asked, as the pipeline knows it.
        message: the same as it came, for how outputs are to be encoded.
    """
    pieces: list[Any] = [head]
    sent = sum([_write(pieces, result, request, message) for result in results])
    return b"".join(pieces), sent


def serialized(reply: pb.ExtractResponse | bytes) -> bytes:
    """Return the bytes of a reply that was encoded here, or of one that is a message still: of an error."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _write(pieces: list[Any], result: Result, request: Request, message: pb.ExtractRequest) -> int:
    """Write what became of images that went the same way; return how many bytes of features they have."""
    timings = _timings(result.timings)
    if isinstance(result.outcome, RegardError):
        pieces += [_failure(result.outcome, timings)] * result.images
        return 0
    if len(result.broken) == result.images:
        pieces += [_failure(result.broken[place], timings) for place in range(result.images)]
        return 0
    end = _opening(_TIMINGS, len(timings)) + timings
    outputs = [
        _encode(name, _sound(result, name), request.model.outputs[name], message) for name in request.outputs
    ]
    features = data_bytes = 0
    for opening, rows, length in outputs:
        features += len(opening) + len(rows[0])
        data_bytes += length
    begin = _opening(_FEATURES, features)
    begin = _opening(_RESULTS, len(begin) + features + len(end)) + begin
    sent = 0
    for place in range(result.images):
        if result.broken and (error := result.broken.get(place)):
            pieces.append(_failure(error, timings))
            continue
        pieces.append(begin)
        for opening, rows, _ in outputs:
            pieces.append(opening)
            pieces.append(rows[place])
        pieces.append(end)
        sent += data_bytes
    return sent


def _sound(result: Result, name: str) -> npt.NDArray[Any]:
    """Return an output of all images, without the NaN of those that have none: some encodings would stumble over it."""
    values: npt.NDArray[Any] = result.outcome[name]  # type: ignore[index]  # no error, see `_write`
    if not result.broken:
        return values
    values = values.copy()
    values[list(result.broken)] = 0.0
    return values


def _failure(error: RegardError, timings: bytes) -> bytes:
    result = pb.ExtractResult(error=to_status(error)).SerializeToString()
    result += _opening(_TIMINGS, len(timings)) + timings
    return _opening(_RESULTS, len(result)) + result


def _timings(timings: Timings) -> bytes:
    """Seconds into milliseconds."""
    message = pb.Timings()  # its fields one by one: a quarter sooner than as arguments
    message.decode_ms = timings.decode_s * 1000
    message.queue_ms = timings.queue_s * 1000
    message.compute_ms = timings.compute_s * 1000
    message.total_ms = timings.total_s * 1000
    message.batch_size = timings.batch_size
    return message.SerializeToString()


def _encode(
    name: str, values: npt.NDArray[Any], info: OutputInfo, message: pb.ExtractRequest
) -> tuple[bytes, Sequence[Any], int]:
    """Return what stands before the data of one output, the same for all images, the data of each, and their length."""
    dropped = REDUCED_AXES[message.attention_reduction]
    if message.l2_normalize and info.kind == "embedding":
        values = _normalized(values)
    elif dropped and info.kind == "attention":
        values = _reduced(values, info, dropped)
    dtype = tensors.ENCODING_TYPES[message.encoding]
    rows, scales = tensors.encode_rows(values, dtype)
    data_bytes = len(rows[0])
    opening = _output(name, dtype, values.shape[1:], data_bytes, scaled=bool(scales))
    if scales:
        scaled = [pb.Tensor(scale=scale).SerializeToString() for scale in scales]
        rows = [bytes(row) + scale for row, scale in zip(rows, scaled, strict=True)]
    return opening, rows, data_bytes


@lru_cache(maxsize=128)
def _head(model: str, fingerprint: str) -> bytes:
    return pb.ExtractResponse(model=model, fingerprint=fingerprint).SerializeToString()


@lru_cache(maxsize=1024)
def _output(
    name: str, dtype: pb.DataType.ValueType, shape: tuple[int, ...], data_bytes: int, *, scaled: bool
) -> bytes:
    """Return everything of one output that stands before its data."""
    tensor = pb.Tensor(dtype=dtype, shape=shape).SerializeToString() + _opening(_DATA, data_bytes)
    behind = data_bytes + (_SCALE_BYTES if scaled else 0)
    output = pb.Output(name=name).SerializeToString() + _opening(_TENSOR, len(tensor) + behind) + tensor
    return _opening(_OUTPUTS, len(output) + behind) + output


@lru_cache(maxsize=1024)  # the same few lengths again and again
def _opening(field: int, length: int) -> bytes:
    """Return the tag of a field of so many bytes, and that number, seven bits a byte, the lowest first."""
    opening = [field << 3 | 2]  # fields up to 15 have a tag of one byte; 2: the length follows
    while length > 0x7F:  # noqa: PLR2004 - seven bits
        opening.append(length & 0x7F | 0x80)
        length >>= 7
    opening.append(length)
    return bytes(opening)


def _normalized(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # float32's squares overflow from 1.8e19 on
    lengths = np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)
    lengths[lengths == 0.0] = 1.0
    normalized: npt.NDArray[Any] = values / lengths.reshape(-1, *[1] * (values.ndim - 1))
    return normalized


def _reduced(values: npt.NDArray[Any], info: OutputInfo, dropped: frozenset[str]) -> npt.NDArray[Any]:
    """Average maps of queries over the axes that the request drops; other maps stay whole."""
    over = tuple(axis for axis, kind in enumerate(info.axes, start=1) if kind in dropped)
    return values.mean(axis=over) if over and "query" in info.axes else values
