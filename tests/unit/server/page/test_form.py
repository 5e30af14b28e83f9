"""Where the page takes photographs."""

import pytest

from regard_server.page import has_form
from regard_server.settings import Settings


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({}, True),
        ({"metrics_address": "0.0.0.0:9095"}, False),
        ({"metrics_address": "0.0.0.0:9095", "page_form": "on"}, True),
        ({"page_form": "off"}, False),
        ({"tokens_file": "tokens"}, False),
        ({"tokens_file": "tokens", "page_form": "on"}, True),
    ],
)
def test_the_form_is_on_where_it_lets_nobody_new_in(settings, form):
    """By itself on loopback alone, and not where gRPC asks for tokens; the setting overrules both."""
    assert has_form(Settings(**settings)) is form
