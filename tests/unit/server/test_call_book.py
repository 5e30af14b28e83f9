"""What is counted of calls, and which of them the log tells of."""

import logging

import grpc
import pytest

from regard_server.call_book import CallBook
from regard_server.embeddings import EmbeddingHealth
from regard_server.metrics import Metrics

LOGGER = logging.getLogger("test.call_book")
REFUSED, OK, LATE = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OK,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


class Book:
    """A book whose clock is set by hand."""

    def __init__(self):
        self.now = 100.0
        self.metrics = Metrics(
            EmbeddingHealth(samples_per_s=0, reference_samples=16, folder=None, logger=LOGGER)
        )
        self._book = CallBook(self.metrics, LOGGER, clock=lambda: self.now)

    def take(self, code, *, unread=False):
        self._book.record("Do", code, 0.001, "mine", unread=unread)


@pytest.fixture
def book():
    return Book()


def lines(caplog):
    """Return what was logged as info, without times."""
    return [
        each.getMessage().replace(" in 1.0 ms", "") for each in caplog.records if each.levelname == "INFO"
    ]


@pytest.mark.parametrize("unread", [False, True])
def test_one_refusal_a_second_is_told_of_and_how_many_there_were_besides(book, caplog, unread):
    """All are counted, and at debug each has its line."""
    caplog.set_level(logging.DEBUG)
    for _ in range(5):
        book.take(REFUSED, unread=unread)
    book.now += 1.0
    book.take(REFUSED, unread=unread)
    book.now += 1.0
    book.take(REFUSED, unread=unread)
    refused = "Do RESOURCE_EXHAUSTED"
    assert lines(caplog) == [refused, f"{refused}, and 4 more since the last line", refused]
    assert len(caplog.records) == 7
    assert book.metrics.requests.children()["Do", "RESOURCE_EXHAUSTED"].value == 7


def test_every_other_failure_is_told_of(book, caplog):
    """However many there are; what went well is not."""
    caplog.set_level(logging.INFO)
    for code in (LATE, OK, LATE, REFUSED, LATE):
        book.take(code)
    assert lines(caplog) == [
        *["Do DEADLINE_EXCEEDED"] * 2,
        "Do RESOURCE_EXHAUSTED",
        "Do DEADLINE_EXCEEDED",
    ]
