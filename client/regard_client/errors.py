"""What can go wrong, drawn once; every error of a server reaches the caller as one of these.

    RegardError
    ├── InvalidImageError           INVALID_ARGUMENT     one image; also a ValueError
    ├── InvalidRequestError         INVALID_ARGUMENT     the request, whatever its images are
    ├── ModelNotFoundError          NOT_FOUND
    ├── FingerprintMismatchError    FAILED_PRECONDITION  another model than the one asked for
    ├── OverloadedError             RESOURCE_EXHAUSTED   try again after retry_after_s
    ├── MessageTooLargeError        RESOURCE_EXHAUSTED   beyond a limit on bytes; do not try again
    ├── DeadlineExceededError       DEADLINE_EXCEEDED    no answer in time
    ├── UnavailableError            UNAVAILABLE          not reachable, loading, draining or broken
    ├── UnauthorizedError           UNAUTHENTICATED, PERMISSION_DENIED
    ├── ClientClosedError           CANCELLED            the client was closed meanwhile
    └── InternalServerError         whatever else        the server's fault

What is wrong before anything is sent is an ordinary Python error: a missing file a `FileNotFoundError`, an
object that is no image a `TypeError`, an array of the wrong shape an `InvalidImageError`.
"""

from grpc import StatusCode


class RegardError(Exception):
    """Something that went wrong with a request or one of its images.

    Attributes:
        code: the gRPC status code.
        reason: stable name in UPPER_SNAKE_CASE that programs may test, such as "IMAGE_TOO_LARGE"; empty where
            the status carried none.
        retry_after_s: seconds after which a retry makes sense; None where the server named none.
        request_id: the name of the request in the server's log; empty if nothing was sent.
    """

    code: StatusCode = StatusCode.UNKNOWN
    reason: str = ""
    retry_after_s: float | None = None
    request_id: str = ""

    # Only the message is required, so that errors can be pickled: the rest travels in __dict__.
    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if reason is not None:
            self.reason = reason
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    @property
    def message(self) -> str:
        """What was wrong, what was expected, and the fix."""
        return str(self)


class InvalidImageError(RegardError, ValueError):
    """An image that cannot be used; those beside it can."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "IMAGE_INVALID"


class InvalidRequestError(RegardError):
    """A request that asks for something that cannot be, whatever its images are."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class ModelNotFoundError(RegardError):
    """A model that the server does not have."""

    code = StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class FingerprintMismatchError(RegardError):
    """Another model answered, or would have, than the one whose fingerprint was expected."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "FINGERPRINT_MISMATCH"


class OverloadedError(RegardError):
    """The server has more work than room; `retry_after_s` says when to come back."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class MessageTooLargeError(RegardError):
    """A message of more bytes than one of the two sides takes."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class DeadlineExceededError(RegardError):
    """There was no answer within `timeout_s`."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXPIRED"


class UnavailableError(RegardError):
    """Nobody answers there, or the server is loading, draining or broken."""

    code = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class UnauthorizedError(RegardError):
    """The server does not know the caller, or does not let them."""

    code = StatusCode.UNAUTHENTICATED


class ClientClosedError(RegardError):
    """The client was closed before or while it was asked."""

    code = StatusCode.CANCELLED
    reason = "CLIENT_CLOSED"


class InternalServerError(RegardError):
    """The server failed, or answered something that makes no sense."""

    code = StatusCode.INTERNAL
