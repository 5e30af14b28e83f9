"""Fixtures of the tests that run whole processes."""

import contextlib

import pytest


@pytest.fixture(scope="module")
def launch():
    """Start processes; what still runs at the end of the module is killed."""
    with contextlib.ExitStack() as cleanup:

        def launch(kind, *arguments, **named):
            process = kind(*arguments, **named)
            cleanup.callback(process.close)
            return process

        yield launch
