"""Who may talk to the page."""

import pytest

from regard_server.page.guard import is_own_request, is_trusted_host


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9095", "10.1.2.3", "[::1]:9095", "localhost:9095", "LOCALHOST", "a.localhost", "box.lan:1"],
)
def test_addresses_localhost_and_named_hosts_are_trusted(host):
    """They cannot have been made up by a website."""
    assert is_trusted_host(host, {"box.lan"})


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example:9095", "localhost.evil.example", "[::1", "evil@x:1"]
)
def test_other_names_are_not(host):
    """A name that an attacker's name server may point here is refused."""
    assert not is_trusted_host(host, {"box.lan"})


@pytest.mark.parametrize(
    ("origin", "site", "own"),
    [
        ("http://127.0.0.1:9095", "same-origin", True),
        ("http://127.0.0.1:9095", "", True),
        ("https://127.0.0.1:9095", "", True),
        ("http://127.0.0.1:9095", "cross-site", False),
        ("http://127.0.0.1:9095", "same-site", False),
        ("http://127.0.0.1:9096", "", False),
        ("http://evil.example", "same-origin", False),
        ("http://[", "", False),
        ("null", "", False),
        ("", "", False),
    ],
)
def test_only_the_page_itself_may_send(origin, site, own):
    """Another site, another port, a sandboxed frame, or nobody: refused; TLS may end at a proxy."""
    assert is_own_request("127.0.0.1:9095", origin, site) is own
