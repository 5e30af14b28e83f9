"""Statuses into errors."""

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from regard_client import errors
from regard_client.statuses import error_of_call, error_of_status
from regard_client.testing.servicer import Failure

CODES = grpc.StatusCode


class Broken(grpc.RpcError):
    """A failed call as gRPC reports it."""

    def __init__(self, code, details, metadata=()):
        super().__init__()
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: metadata


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("IMAGE_TOO_LARGE", CODES.INVALID_ARGUMENT, errors.InvalidImageError),
        ("TENSOR_NOT_FINITE", CODES.INVALID_ARGUMENT, errors.InvalidImageError),
        ("PIXELS_INVALID", CODES.INVALID_ARGUMENT, errors.InvalidImageError),
        ("TOO_MANY_IMAGES", CODES.INVALID_ARGUMENT, errors.InvalidRequestError),
        ("MODEL_NOT_FOUND", CODES.NOT_FOUND, errors.ModelNotFoundError),
        ("FINGERPRINT_MISMATCH", CODES.FAILED_PRECONDITION, errors.FingerprintMismatchError),
        ("OVERLOADED", CODES.RESOURCE_EXHAUSTED, errors.OverloadedError),
        ("DEVICE_OUT_OF_MEMORY", CODES.RESOURCE_EXHAUSTED, errors.InternalServerError),
        ("DEADLINE_EXPIRED", CODES.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        ("UNAVAILABLE", CODES.UNAVAILABLE, errors.UnavailableError),
        ("TOKEN_UNKNOWN", CODES.UNAUTHENTICATED, errors.UnauthorizedError),
        ("FORBIDDEN", CODES.PERMISSION_DENIED, errors.UnauthorizedError),
        ("COMPUTATION_FAILED", CODES.INTERNAL, errors.InternalServerError),
        ("FROM_THE_FUTURE", CODES.UNIMPLEMENTED, errors.InternalServerError),
    ],
)
def test_every_reason_has_its_class(reason, code, expected):
    """The class follows from reason and code; code, reason and message are kept."""
    error = error_of_status(Failure(reason, code, "what was wrong").status(), request_id="r-1")
    assert type(error) is expected
    assert (error.code, error.reason, error.message, error.request_id) == (
        code,
        reason,
        "what was wrong",
        "r-1",
    )


def test_retry_info_says_when_to_come_back():
    """RetryInfo becomes seconds."""
    status = Failure("OVERLOADED", CODES.RESOURCE_EXHAUSTED, retry_after_s=0.25).status()
    assert error_of_status(status).retry_after_s == pytest.approx(0.25)


def test_details_of_other_domains_are_not_ours():
    """A reason that another system gave is not taken for one of regard's."""
    status = status_pb2.Status(code=CODES.INVALID_ARGUMENT.value[0], message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="IMAGE_EMPTY", domain="example.com"))
    error = error_of_status(status)
    assert type(error) is errors.InvalidRequestError
    assert not error.reason


def test_the_servers_own_request_id_is_told():
    """Where the server names the request, its name goes before ours."""
    status = status_pb2.Status(code=CODES.INTERNAL.value[0])
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id="theirs"))
    assert error_of_status(status, request_id="ours").request_id == "theirs"


def test_a_code_from_the_future_is_the_servers_fault():
    """A number that no code has becomes an InternalServerError, not a crash."""
    error = error_of_status(status_pb2.Status(code=999, message="m"))
    assert type(error) is errors.InternalServerError
    assert error.code is CODES.UNKNOWN


def test_a_bare_status_names_the_target():
    """What gRPC itself reports has no reason, and says whom it was about."""
    error = error_of_call(Broken(CODES.UNAVAILABLE, "connection refused"), target="host:1")
    assert type(error) is errors.UnavailableError
    assert str(error) == "host:1: connection refused"
    assert not error.reason


def test_pushback_says_when_to_come_back():
    """Without RetryInfo, gRPC's pushback counts; a negative one means never."""
    metadata = (("grpc-retry-pushback-ms", "1500"),)
    assert error_of_call(Broken(CODES.UNAVAILABLE, "", metadata), target="t").retry_after_s == pytest.approx(
        1.5
    )
    never = (("grpc-retry-pushback-ms", "-1"),)
    assert error_of_call(Broken(CODES.UNAVAILABLE, "", never), target="t").retry_after_s is None
    odd = (("grpc-retry-pushback-ms", "soon"),)
    assert error_of_call(Broken(CODES.UNAVAILABLE, "", odd), target="t").retry_after_s is None


def test_details_that_are_no_status_are_ignored():
    """Bytes under the well-known key that do not parse leave code and message standing."""
    metadata = (("grpc-status-details-bin", b"\xff\xff"),)
    error = error_of_call(Broken(CODES.NOT_FOUND, "no such thing", metadata), target="t")
    assert type(error) is errors.ModelNotFoundError
    assert str(error) == "t: no such thing"


@pytest.mark.parametrize(
    ("details", "whose"),
    [
        ("SERVER: Received message larger than max (5000000 vs. 4194304)", "server"),
        ("CLIENT: Received message larger than max (5000000 vs. 4194304)", "client"),
        ("CLIENT: Sent message larger than max (5000000 vs. 4194304)", "client"),
        ("Sent message larger than max (5000000 vs. 4194304)", "client"),
    ],
)
def test_grpcs_own_limit_is_told_from_overload(details, whose):
    """A message that is too large is not overload, and its error says whose limit it is and how large."""
    error = error_of_call(Broken(CODES.RESOURCE_EXHAUSTED, details), target="t")
    assert type(error) is errors.MessageTooLargeError
    assert f"{whose}'s limit of 4,194,304" in str(error)


def test_errors_can_be_pickled():
    """Errors cross process borders with everything they know."""
    error = error_of_status(
        Failure("OVERLOADED", CODES.RESOURCE_EXHAUSTED, "m", 0.5).status(), request_id="r"
    )
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(back), str(back), back.__dict__) == (type(error), str(error), error.__dict__)
