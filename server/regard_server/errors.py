"""What can go wrong, by whose fault, and what the caller is told.

    RegardError
    ├── InvalidRequestError            INVALID_ARGUMENT     the request, whatever its images
    │   ├── MalformedRequestError
    │   ├── NoImagesError
    │   ├── TooManyImagesError
    │   ├── ReplyTooLargeError
    │   ├── UnknownOutputError
    │   └── UnknownEncodingError
    ├── InvalidImageError              INVALID_ARGUMENT     one image; its neighbours are answered
    │   ├── EmptyImageError
    │   ├── UnknownFormatError
    │   ├── UndecodableImageError
    │   ├── ImageTooLargeError
    │   ├── InvalidPixelsError
    │   └── InvalidTensorError
    │       └── NonFiniteTensorError
    ├── UnauthenticatedError           UNAUTHENTICATED      who calls without a token that is known
    │   ├── MissingTokenError
    │   └── InvalidTokenError
    ├── ModelNotFoundError             NOT_FOUND
    ├── FingerprintMismatchError       FAILED_PRECONDITION
    ├── DeadlineExpiredError           DEADLINE_EXCEEDED
    ├── OverloadedError                RESOURCE_EXHAUSTED   try again after retry_after_s
    ├── UnavailableError               UNAVAILABLE          loading, draining or broken
    ├── ComputationError               INTERNAL             the network, not the caller
    │   ├── NonFiniteOutputError
    │   └── OutOfMemoryError
    └── InternalError                  INTERNAL             a bug of ours, in one request of a stream

Every class carries its gRPC code and a stable reason, which clients may test. Whatever is not a
`RegardError` is a bug of ours: it is logged with its traceback and leaves as INTERNAL without details.
Only the border turns an error of a whole call into a status, `interceptors.py` for coroutines and `reply.py` for calls
without one; `servicers/` does for one image, and for one request of a stream.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

from grpc import StatusCode

_MAX_QUOTED = 100


class RegardError(Exception):
    """Something that is expected to happen, and that the caller is told about.

    Attributes:
        code: the gRPC status code.
        reason: stable name in UPPER_SNAKE_CASE, sent as `google.rpc.ErrorInfo.reason`.
        retry_after_s: seconds after which a retry makes sense; None where it does not.
    """

    code: ClassVar[StatusCode]
    reason: ClassVar[str]
    retry_after_s: float | None = None

    @property
    def message(self) -> str:
        """What was wrong, what was expected, and the fix."""
        return str(self)

    def forget_origin(self) -> None:
        """Let go of where this was raised: those frames hold the request, and what holds this error with it."""
        self.__traceback__ = self.__cause__ = self.__context__ = None


class InvalidRequestError(RegardError):
    """A request that asks for something that cannot be, whatever its images are."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class MalformedRequestError(InvalidRequestError):
    """Bytes that are no message of the method's type."""

    reason = "REQUEST_MALFORMED"


class NoImagesError(InvalidRequestError):
    """A request without images."""

    reason = "NO_IMAGES"


class TooManyImagesError(InvalidRequestError):
    """More images in a request than the server allows."""

    reason = "TOO_MANY_IMAGES"


class ReplyTooLargeError(InvalidRequestError):
    """More bytes of outputs than the server computes for one request."""

    reason = "REPLY_TOO_LARGE"


class UnknownOutputError(InvalidRequestError):
    """An output that the model does not have."""

    reason = "OUTPUT_UNKNOWN"


class UnknownEncodingError(InvalidRequestError):
    """A number that no encoding, priority or reduction has: a newer client, perhaps."""

    reason = "OPTION_UNKNOWN"


class InvalidImageError(RegardError):
    """An image that cannot be used; those beside it can."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "IMAGE_INVALID"


class EmptyImageError(InvalidImageError):
    """No bytes, or none of the three forms."""

    reason = "IMAGE_EMPTY"


class UnknownFormatError(InvalidImageError):
    """Bytes that are none of the formats that are read."""

    reason = "IMAGE_FORMAT_UNKNOWN"


class UndecodableImageError(InvalidImageError):
    """A truncated or corrupt file."""

    reason = "IMAGE_UNDECODABLE"


class ImageTooLargeError(InvalidImageError):
    """More bytes or pixels than the server allows; refused before it is decoded."""

    reason = "IMAGE_TOO_LARGE"


class InvalidPixelsError(InvalidImageError):
    """Raw pixels whose size contradicts their number."""

    reason = "PIXELS_INVALID"


class InvalidTensorError(InvalidImageError):
    """A float tensor of the wrong type or shape."""

    reason = "TENSOR_INVALID"


class NonFiniteTensorError(InvalidTensorError):
    """A float tensor that holds NaN or infinity."""

    reason = "TENSOR_NOT_FINITE"


class UnauthenticatedError(RegardError):
    """Somebody of whom nothing shows that he may call."""

    code = StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class MissingTokenError(UnauthenticatedError):
    """A call without a bearer token where one is needed."""

    reason = "TOKEN_MISSING"


class InvalidTokenError(UnauthenticatedError):
    """A token that is not, or no longer, known."""

    reason = "TOKEN_INVALID"


class ModelNotFoundError(RegardError):
    """A model that is not served here."""

    code = StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class FingerprintMismatchError(RegardError):
    """The model is not the one that the caller's vectors were made with."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "FINGERPRINT_MISMATCH"


class DeadlineExpiredError(RegardError):
    """The caller's deadline, or the server's default one, passed before there was an answer."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXPIRED"


class OverloadedError(RegardError):
    """There is more work than room."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(RegardError):
    """Loading, draining or broken; another replica may answer."""

    code = StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ComputationError(RegardError):
    """The network did not give a usable result."""

    code = StatusCode.INTERNAL
    reason = "COMPUTATION_FAILED"


class NonFiniteOutputError(ComputationError):
    """The network gave NaN or infinity for this image."""

    reason = "OUTPUT_NOT_FINITE"


class OutOfMemoryError(ComputationError):
    """The device's memory does not hold this image, even alone."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "DEVICE_OUT_OF_MEMORY"


class InternalError(RegardError):
    """A bug of ours, of which the caller learns no more than that."""

    code = StatusCode.INTERNAL
    reason = "INTERNAL"


def quote(text: str) -> str:
    """Return what a caller sent, in quotes and short: trailers of more than 8 KB never reach him."""
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the names nearest to `name`, or all of them where none is near."""
    names = list(known)
    near = difflib.get_close_matches(name[:_MAX_QUOTED], names, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there is {', '.join(names)}"
