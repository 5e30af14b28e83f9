"""Who may talk to the page: not a website that somebody has open in the same browser.

Two ways in are shut. A site that points its own name at this address (DNS rebinding) counts as this page's own origin,
but the browser still sends that name as Host: names that nobody vouched for are refused. A site that sends a request
across origins is told apart by Origin, by Sec-Fetch-Site where the browser sends it, and by a Content-Type that it
would first have to ask permission for.
"""

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
"""What every answer of the page carries."""


def host_of(header: str) -> str:
    """Return the name in a Host header, in lower case, without port and brackets; "" where it makes no sense."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_trusted_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header names this server: by address, as localhost, or by one of these names.

    An address cannot be rebound, because no name was looked up; `localhost` and what is under it are never asked of a
    name server (RFC 6761).
    """
    host = host_of(header)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost") or host in names
    return True


def is_own_request(host: str, origin: str, fetch_site: str) -> bool:
    """Return whether a request that does something was made by the page itself.

    Args:
        host: the Host header.
        origin: the Origin header; browsers send it with every POST.
        fetch_site: Sec-Fetch-Site; browsers leave it out on plain HTTP beyond loopback.
    """
    if fetch_site not in {"", "same-origin"}:
        return False
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
