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


def read_results(response: pb.ExtractResponse) -> list[Result]:
    """Return what a response says of its images, in their order; the arrays are the callers' own, to write to."""
    # What all have in common is looked up once: a field of a message makes an object each time.
    model, fingerprint, request_id = response.model, response.fingerprint, response.request_id
    results = []
    for result in response.results:
        outputs, error = _read_outcome(result, request_id)
        # By position: naming the fields took a third more.
        results.append(Result(outputs, _read_timings(result.timings), model, fingerprint, error, request_id))
    return results


def _read_outcome(
    result: pb.ExtractResult, request_id: str
) -> tuple[dict[str, npt.NDArray[Any]], RegardError | None]:
    """Return the arrays of one image, or what was wrong with it."""
    if result.WhichOneof("outcome") != "features":
        return {}, error_of_status(result.error, request_id=request_id)
    try:
        return {output.name: tensors.to_own_array(output.tensor) for output in result.features.outputs}, None
    except tensors.MalformedTensorError as cause:
        error = InternalServerError(f"server sent a malformed tensor: {cause}", request_id=request_id)
        error.__cause__ = cause
        return {}, error


def _read_timings(timings: pb.Timings) -> Timings:
    return Timings(
        timings.decode_ms, timings.queue_ms, timings.compute_ms, timings.total_ms, timings.batch_size
    )
