"""Errors as `google.rpc.Status`: the code, the message, ErrorInfo and, where a retry makes sense, RetryInfo."""

import math
from functools import lru_cache

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
    return Status.FromString(_serialized(error, request_id))


def to_trailers(error: RegardError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that goes with a call's status."""
    details: tuple[str, bytes] = (DETAILS_KEY, _serialized(error, request_id))
    if error.retry_after_s is None:
        return (details,)
    return details, (PUSHBACK_KEY, str(max(_LEAST_PUSHBACK_MS, math.ceil(error.retry_after_s * 1000))))


def _serialized(error: RegardError, request_id: str) -> bytes:
    """Write a status. Under overload one is sent to most callers, so details are written once for all like them.

    Messages that stand one after another are their union, and repeated fields are joined:
    https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    written: bytes = Status(code=error.code.value[0], message=error.message).SerializeToString()
    written += _reason(error.reason)
    if error.retry_after_s is not None:
        written += _retry(math.ceil(error.retry_after_s * 1000))
    if request_id:
        name = request_id.encode()
        written += _before_name(len(name)) + name
    return written


@lru_cache(maxsize=64)
def _reason(reason: str) -> bytes:
    return _detail(ErrorInfo(reason=reason, domain=DOMAIN))


@lru_cache(maxsize=1024)
def _retry(after_ms: int) -> bytes:
    delay = Duration()
    delay.FromMilliseconds(after_ms)
    return _detail(RetryInfo(retry_delay=delay))


@lru_cache(maxsize=256)
def _before_name(length: int) -> bytes:
    """Return the detail that names a request, up to the name, which is its end."""
    return _detail(RequestInfo(request_id="x" * length))[:-length]


def _detail(message: Message) -> bytes:
    """Return a status that has nothing but this detail."""
    written: bytes = Status(details=[_pack(message)]).SerializeToString()
    return written


def _pack(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
