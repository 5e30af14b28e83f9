"""What came back for one image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from regard_client.errors import InternalServerError, RegardError
from regard_client.statuses import error_of_status
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb


@dataclass(frozen=True, slots=True)
class Timings:
    """Where one image's time went, in milliseconds on the server's clock; steps not reached are zero.

    Attributes:
        decode_ms: decoding and resizing.
        queue_ms: waiting for the device, from decoded to dispatched.
        compute_ms: the forward pass of the batch it rode in, transfers included.
        total_ms: from the request's arrival to this result.
        batch_size: how many images were in that batch.
    """

    decode_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    total_ms: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """The outputs of one image, or why there are none.

    Attributes:
        outputs: arrays by name. Their type is float32, or float16 or bool where the encoding is "float16" or
            "binary"; bfloat16 and int8 arrive widened to float32.
        timings: where the time went on the server.
        model: name of the model that answered; empty if none did.
        fingerprint: which version of it; vectors are comparable only where it is equal.
        error: what was wrong with this image; None if nothing was. An `OSError` if its file could not be read.
        request_id: the name of the message in the server's log.
    """

    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    timings: Timings = Timings()
    model: str = ""
    fingerprint: str = ""
    error: RegardError | OSError | None = None
    request_id: str = ""


def read_result(response: pb.ExtractResponse, index: int) -> Result:
    """Return what a response says of one image; its arrays are the caller's own, to write to as they like."""
    result = response.results[index]
    error: RegardError | None = None
    outputs: dict[str, npt.NDArray[Any]] = {}
    if result.WhichOneof("outcome") == "features":
        try:
            outputs = {output.name: _own(output.tensor) for output in result.features.outputs}
        except tensors.MalformedTensorError as cause:
            error = InternalServerError(
                f"server sent a malformed tensor: {cause}", request_id=response.request_id
            )
            error.__cause__ = cause
    else:
        error = error_of_status(result.error, request_id=response.request_id)
    return Result(
        outputs=outputs,
        timings=_read_timings(result.timings),
        model=response.model,
        fingerprint=response.fingerprint,
        error=error,
        request_id=response.request_id,
    )


def _own(tensor: pb.Tensor) -> npt.NDArray[Any]:
    array = tensors.to_array(tensor)
    return array if array.flags.writeable else array.copy()


def _read_timings(timings: pb.Timings) -> Timings:
    return Timings(
        decode_ms=timings.decode_ms,
        queue_ms=timings.queue_ms,
        compute_ms=timings.compute_ms,
        total_ms=timings.total_ms,
        batch_size=timings.batch_size,
    )
