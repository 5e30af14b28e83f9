"""When a process does not begin once more; tests/integration/test_process.py shows when it does."""

import sys

import pytest

from regard_server.frontend.polling import VARIABLE, begin_again


@pytest.mark.parametrize(
    ("started_as", "environment"),
    [
        (["python", "regard", "serve", "--models", "m"], {VARIABLE: ""}),
        (["python", "app.py", "serve"], {}),
        (["python", "-m", "pytest"], {}),
    ],
)
def test_a_process_is_left_alone_that_was_told_otherwise_or_is_not_the_servers(
    monkeypatch, started_as, environment
):
    """Whoever sets the variable knows why, and whoever calls `serve` in a program of his own keeps it."""
    monkeypatch.setattr(sys, "orig_argv", started_as)
    before = dict(environment)
    begin_again(["--models", "m"], environment)
    assert environment == before
