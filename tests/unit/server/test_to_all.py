"""Telling many, some of whom fail."""

import pytest

from regard_server.to_all import to_all


def test_everybody_is_told_and_every_failure_raised():
    """In order, the failures at the end."""
    told = []

    def tell(item):
        told.append(item)
        if item % 2:
            raise ValueError(item)

    with pytest.raises(ExceptionGroup) as caught:
        to_all(range(4), tell)
    assert told == [0, 1, 2, 3]
    assert [error.args for error in caught.value.exceptions] == [(1,), (3,)]
