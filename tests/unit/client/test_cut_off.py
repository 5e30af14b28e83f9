"""Calls that the other side cancels."""

import grpc

from regard_client.errors import ClientClosedError, UnavailableError
from regard_client.statuses import error_of_call


class Cancelled(grpc.RpcError):
    """What a call raises that was cancelled."""

    def code(self):
        return grpc.StatusCode.CANCELLED

    def details(self):
        return "CANCELLED"

    def trailing_metadata(self):
        return ()


def test_a_call_that_the_server_cuts_off_is_unavailable():
    """A server that stops cancels what it cannot answer; another replica may."""
    assert isinstance(error_of_call(Cancelled(), target="t"), UnavailableError)


def test_a_call_that_the_client_s_own_close_cancels_says_so():
    """Whoever closes the client is told that, not that the server went away."""
    assert isinstance(error_of_call(Cancelled(), target="t", closed=True), ClientClosedError)
