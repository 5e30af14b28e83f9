"""Errors as `google.rpc.Status`."""

import math

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from regard_server import errors
from regard_server.servicers.status import to_status, to_trailers


def details(status):
    """Return the details by type."""
    found = {}
    for packed in status.details:
        for kind in (ErrorInfo, RequestInfo, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind()
                packed.Unpack(found[kind])
    assert len(found) == len(status.details)
    return found


def subclasses(cls):
    return [cls, *(each for sub in cls.__subclasses__() for each in subclasses(sub))]


@pytest.mark.parametrize("error", subclasses(errors.RegardError)[1:], ids=lambda error: error.__name__)
def test_every_error_has_a_code_and_a_reason_of_its_own(error):
    """Clients may test the reason, so no two errors share one, and each has a status code that is no success."""
    assert isinstance(error.code, grpc.StatusCode)
    assert error.code is not grpc.StatusCode.OK
    reasons = [each.reason for each in subclasses(errors.RegardError)[1:]]
    assert reasons.count(error.reason) == 1
    assert error.reason == error.reason.upper()


def test_a_status_carries_code_message_and_reason():
    """ErrorInfo is always there; nothing else is without a cause."""
    status = to_status(errors.EmptyImageError("it is empty"))
    assert (status.code, status.message) == (3, "it is empty")
    assert details(status) == {ErrorInfo: ErrorInfo(reason="IMAGE_EMPTY", domain="regard")}


def test_what_is_worth_another_try_says_when():
    """RetryInfo for people's code, the pushback for gRPC's own retries."""
    error = errors.OverloadedError("full", retry_after_s=0.1)
    found = details(to_status(error))
    assert found[RetryInfo].retry_delay.ToMilliseconds() == 100
    trailers = dict(to_trailers(error, "abc"))
    assert trailers["grpc-retry-pushback-ms"] == "100"


def test_trailers_carry_the_status_in_full_and_the_requests_name():
    """The binary trailer is the status, with the id under which the log knows the request."""
    trailers = dict(to_trailers(errors.NoImagesError("none"), "abc"))
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (3, "none")
    assert details(status)[RequestInfo].request_id == "abc"
    assert "grpc-retry-pushback-ms" not in trailers


@given(st.text(), st.floats(0.0, 1e6), st.text(max_size=300))
def test_a_status_is_what_was_put_into_it(message, retry_after_s, request_id):
    """Whatever the texts are, and to the millisecond that it is worth waiting for."""
    error = errors.OverloadedError(message, retry_after_s=retry_after_s)
    status = to_status(error, request_id)
    assert (status.code, status.message) == (8, message)
    found = details(status)
    assert found[ErrorInfo].reason == "OVERLOADED"
    assert found[RetryInfo].retry_delay.ToMilliseconds() == math.ceil(retry_after_s * 1000)
    assert found.get(RequestInfo, RequestInfo()).request_id == request_id
