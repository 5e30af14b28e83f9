"""The pipeline's results into regard.v1 messages: split ─→ encode."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from regard_models import OutputInfo, Preprocessing
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import ModelState, ServedModel
from regard_server.errors import RegardError
from regard_server.request import Request, Result, Timings
from regard_server.servicers.reply_size import REDUCED_AXES
from regard_server.servicers.requests import RequestLimits
from regard_server.servicers.status import to_status

Encode: TypeAlias = "Callable[[pb.Tensor, npt.NDArray[Any], OutputInfo], int]"

_STATES = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}
_KINDS = {
    "embedding": pb.OUTPUT_KIND_EMBEDDING,
    "logits": pb.OUTPUT_KIND_LOGITS,
    "feature_map": pb.OUTPUT_KIND_FEATURE_MAP,
    "attention": pb.OUTPUT_KIND_ATTENTION,
}


def to_error_response(message: pb.ExtractRequest, error: RegardError) -> pb.ExtractResponse:
    """Say on a stream why a whole request failed."""
    return pb.ExtractResponse(request_id=message.request_id, error=to_status(error))


def add_result(response: pb.ExtractResponse, result: Result, request: Request, encode: Encode) -> int:
    """Add what became of one picture; return how many bytes of features it has.

    It is written where it stays: every message that is made apart and put into another is copied.
    """
    message = response.results.add()
    _write_timings(message.timings, result.timings)
    if isinstance(result.outcome, RegardError):
        message.error.CopyFrom(to_status(result.outcome))
        return 0
    features = message.features
    features.SetInParent()
    size = 0
    for name in request.outputs:
        output = features.outputs.add()
        output.name = name
        size += encode(output.tensor, result.outcome[name], request.model.outputs[name])
    return size


def encoder(message: pb.ExtractRequest) -> Encode:
    """Return what writes one output into a tensor as the request says, and tells how many bytes it took."""
    # Not a function within: its annotations would be evaluated for every request, which took 2 µs.
    dtype = tensors.ENCODING_TYPES[message.encoding]
    dropped = REDUCED_AXES[message.attention_reduction]
    return partial(_encode, dtype=dtype, normalize=message.l2_normalize, dropped=dropped)


def _encode(
    tensor: pb.Tensor,
    values: npt.NDArray[Any],
    info: OutputInfo,
    *,
    dtype: pb.DataType.ValueType,
    normalize: bool,
    dropped: frozenset[str],
) -> int:
    if normalize and info.kind == "embedding":
        values = _normalized(values)
    elif dropped and info.kind == "attention":
        values = _reduced(values, info, dropped)
    return tensors.write(tensor, values, dtype)


def _normalized(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    length = np.linalg.norm(values.astype(np.float64))  # float32's squares overflow from 1.8e19 on
    return values / length if length else values


def _reduced(values: npt.NDArray[Any], info: OutputInfo, dropped: frozenset[str]) -> npt.NDArray[Any]:
    """Average a map of queries over the axes that the request drops; other maps stay whole."""
    over = tuple(index for index, axis in enumerate(info.axes) if axis in dropped)
    return values.mean(axis=over) if over and "query" in info.axes else values


def _write_timings(message: pb.Timings, timings: Timings) -> None:
    """Seconds into milliseconds."""
    message.decode_ms = timings.decode_s * 1000
    message.queue_ms = timings.queue_s * 1000
    message.compute_ms = timings.compute_s * 1000
    message.total_ms = timings.total_s * 1000
    message.batch_size = timings.batch_size


def to_model(
    model: ServedModel, fingerprint: str, state: ModelState, limits: RequestLimits, *, is_default: bool
) -> pb.Model:
    """Describe a model."""
    return pb.Model(
        name=model.name,
        is_default=is_default,
        fingerprint=fingerprint,
        state=_STATES[state],
        weights=model.weights,
        trained=model.trained,
        architecture=model.architecture,
        preprocessing=_to_preprocessing(model.preprocessing),
        outputs=[_to_output(output) for output in model.outputs.values()],
        compute_dtype=model.compute_dtype,
        engine=model.engine,
        device=model.device,
        limits=pb.Limits(
            max_images=limits.max_images,
            max_image_bytes=limits.image.max_bytes,
            max_pixels=limits.image.max_pixels,
            max_message_bytes=limits.max_message_bytes,
            min_tensor_side=model.min_side,
            max_tensor_side=limits.max_tensor_side,
        ),
        parameters=model.parameters,
    )


def to_unloaded_model(name: str, state: ModelState, *, is_default: bool) -> pb.Model:
    """Describe a model of which no more than the name is known yet."""
    return pb.Model(name=name, state=_STATES[state], is_default=is_default)


def _to_preprocessing(prepared: Preprocessing) -> pb.Preprocessing:
    return pb.Preprocessing(
        height=prepared.height,
        width=prepared.width,
        resize=prepared.resize,
        interpolation=prepared.interpolation,
        mean=prepared.mean,
        std=prepared.std,
    )


def _to_output(output: OutputInfo) -> pb.OutputInfo:
    return pb.OutputInfo(
        name=output.name,
        kind=_KINDS[output.kind],
        shape=output.shape,
        axes=output.axes,
        description=output.description,
    )
