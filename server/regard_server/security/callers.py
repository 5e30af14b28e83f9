"""Who a caller is, for limits of his own: the holder of a token, else of a certificate, else of an address."""

from typing import Any

from grpc.aio import ServicerContext

from regard_server.frontend.routes import UnaryCall
from regard_server.security.tokens import Tokens


def caller_of(context: UnaryCall | ServicerContext[Any, Any], tokens: Tokens | None) -> str:
    """Return a name that stays the same from call to call.

    Behind a proxy everybody without a token has the proxy's certificate and address.

    Raises:
        UnauthenticatedError: the token was taken away between the door and here.
    """
    if tokens is not None:
        return f"token {tokens.identify(context.invocation_metadata() or ())}"
    if identities := context.peer_identities():
        return f"certificate {b' '.join(identities).decode('utf-8', 'replace')}"
    host, _, _ = context.peer().rpartition(":")
    return host
