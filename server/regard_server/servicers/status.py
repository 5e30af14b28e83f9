"""Errors as `google.rpc.Status`: the code, the message, ErrorInfo and, where a retry makes sense, RetryInfo."""

import math

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from regard_server.errors import RegardError

DOMAIN = "regard"
# What gRPC libraries look for: the status in full, and when (in ms) their own retries may come again.
DETAILS_KEY = "grpc-status-details-bin"
# A retry after 0 ms, and often one after 1 ms, hangs the call in gRPC core (grpc/grpc#41036).
_LEAST_PUSHBACK_MS = 10
PUSHBACK_KEY = "grpc-retry-pushback-ms"


def to_status(error: RegardError, request_id: str = "") -> Status:
    """Return the status of one image or of a whole call."""
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    if request_id:
        details.append(RequestInfo(request_id=request_id))
    return Status(code=error.code.value[0], message=error.message, details=[_pack(each) for each in details])


def to_trailers(error: RegardError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that goes with a call's status."""
    trailers: list[tuple[str, str | bytes]] = [
        (DETAILS_KEY, to_status(error, request_id).SerializeToString()),
    ]
    if error.retry_after_s is not None:
        trailers.append((PUSHBACK_KEY, str(max(_LEAST_PUSHBACK_MS, math.ceil(error.retry_after_s * 1000)))))
    return tuple(trailers)


def _pack(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
