"""Statuses of gRPC into errors: the one place where the wire's troubles get their Python names.

The status of a call carries its details in trailing metadata (`grpc-status-details-bin`, a
`google.rpc.Status`); the status of one image is such a message itself.
"""

import re
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from regard_client import errors
from regard_client.errors import RegardError

DOMAIN: Final = "regard"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_BY_CODE: Final[dict[grpc.StatusCode, type[RegardError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FingerprintMismatchError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthorizedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.UnauthorizedError,
    grpc.StatusCode.CANCELLED: errors.ClientClosedError,
}

# Reasons whose meaning their code alone does not tell.
_BY_REASON: Final[dict[str, type[RegardError]]] = {
    "DEVICE_OUT_OF_MEMORY": errors.InternalServerError,
    "MESSAGE_TOO_LARGE": errors.MessageTooLargeError,
}
_IMAGE_REASONS: Final = ("IMAGE_", "PIXELS_", "TENSOR_")

# gRPC's own words, the same in every language: "… message larger than max (5000000 vs. 4194304)".
_LARGER_THAN_MAX: Final = re.compile(r"(Sent|Received) message larger than max \((\d+) vs\. (\d+)\)")


def error_of_call(
    cause: grpc.RpcError, *, target: str, request_id: str = "", closed: bool = False
) -> RegardError:
    """Return the error that a failed call means; raise it `from` the cause.

    `closed` tells whether the client itself was closed, which cancels its calls.
    """
    code = cause.code()
    message = cause.details() or code.name
    # Pairs of key and value, whichever sort of channel they come from.
    pairs: Any = cause.trailing_metadata() or ()
    metadata = dict(pairs)
    too_large = _LARGER_THAN_MAX.search(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        return _too_large(message, too_large, request_id)
    if code is grpc.StatusCode.CANCELLED and not closed:
        code = (
            grpc.StatusCode.UNAVAILABLE
        )  # by the other side: a server that stops cuts off whom it cannot answer
    status = _status_in(metadata)
    if status is None:
        # Without details the status is gRPC's own or a proxy's: say who did not answer.
        status = status_pb2.Status(code=code.value[0], message=f"{target}: {message}")
    pushback_s = _pushback_s(metadata)
    return error_of_status(status, request_id=request_id, retry_after_s=pushback_s)


def error_of_status(
    status: status_pb2.Status, *, request_id: str = "", retry_after_s: float | None = None
) -> RegardError:
    """Return the error that a status means, by its reason first and by its code otherwise."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.RequestInfo(request_id=request_id)
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            detail.Unpack(request)
    reason = info.reason if info.domain == DOMAIN else ""
    return _class_for(code, reason)(
        status.message or code.name,
        code=code,
        reason=reason,
        retry_after_s=retry_after_s,
        request_id=request.request_id,
    )


def _class_for(code: grpc.StatusCode, reason: str) -> type[RegardError]:
    if code is grpc.StatusCode.INVALID_ARGUMENT and reason.startswith(_IMAGE_REASONS):
        return errors.InvalidImageError
    return _BY_REASON.get(reason) or _BY_CODE.get(code, errors.InternalServerError)


def _too_large(message: str, match: re.Match[str], request_id: str) -> RegardError:
    size, limit = int(match[2]), int(match[3])
    here = message.startswith("CLIENT") or match[1] == "Sent"
    return errors.MessageTooLargeError(
        f"message of {size:,} bytes is larger than the {'client' if here else 'server'}'s limit of {limit:,}; "
        f"{'raise it in Transport' if here else 'send smaller or fewer images'} ({message})",
        request_id=request_id,
    )


def _status_in(metadata: dict[str, Any]) -> status_pb2.Status | None:
    packed = metadata.get(DETAILS_KEY)
    if packed is None:
        return None
    try:
        return status_pb2.Status.FromString(packed)
    except DecodeError:
        return None  # somebody else's details; code and message still stand


def _pushback_s(metadata: dict[str, Any]) -> float | None:
    try:
        pushback_ms = int(metadata.get(PUSHBACK_KEY, -1))
    except ValueError:
        return None
    return pushback_ms / 1000 if pushback_ms >= 0 else None
