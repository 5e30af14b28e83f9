"""The name of a request."""

import contextvars
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_server.request_id import begin_request, current_request_id

PRINTABLE = string.ascii_letters + string.digits + string.punctuation


def begin(*metadata):
    """Begin a request in a context of its own and return (returned name, current name)."""

    def run():
        return begin_request(metadata), current_request_id()

    return contextvars.copy_context().run(run)


def test_there_is_no_name_outside_of_a_request():
    """What is logged by nobody's request carries no id."""
    assert current_request_id() == ""


@given(st.text(PRINTABLE, min_size=1, max_size=128))
def test_a_printable_name_is_kept(name):
    """The caller's `x-request-id` is the request's name."""
    assert begin(("user-agent", "curl"), ("x-request-id", name)) == (name, name)


@pytest.mark.parametrize(
    "name", ["", " ", "two words", "line\nbreak", "naïve", "x" * 129, b"bytes", "\x1b[31m"]
)
def test_a_name_that_could_spoil_a_log_is_replaced(name):
    """Blank, long and unprintable names are not taken over."""
    named, current = begin(("x-request-id", name))
    assert named == current != name
    assert len(named) == 32


def test_a_request_without_a_name_gets_one_of_its_own():
    """Names that the server makes up differ."""
    assert begin()[0] != begin()[0]
