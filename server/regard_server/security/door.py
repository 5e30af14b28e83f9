"""The door: a call without a known token goes no further than its metadata."""

from collections.abc import Callable, Container

from regard_server.errors import RegardError, UnauthenticatedError
from regard_server.frontend.routes import Handler, Metadata
from regard_server.security.tokens import Tokens


class TokenDoor:
    """Asked by the front end about every call, before its message is received.

    Args:
        tokens: who may call.
        refuse: makes what answers a call, by its method and the error.
        open_to_all: methods that need no token: probes have none.
    """

    def __init__(
        self, tokens: Tokens, refuse: Callable[[str, RegardError], Handler], open_to_all: Container[str]
    ) -> None:
        self._tokens = tokens
        self._refuse = refuse
        self._open_to_all = open_to_all

    def __call__(self, method: str, metadata: Metadata) -> "Handler | None":
        """Return what answers the call in the servicer's place; None lets it in."""
        if method in self._open_to_all:
            return None
        try:
            self._tokens.identify(metadata)
        except UnauthenticatedError as error:
            return self._refuse(method, error)
        return None
