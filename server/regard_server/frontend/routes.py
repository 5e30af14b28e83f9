"""The methods that are served, collected from generated code as if from a server of gRPC's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata = Sequence[tuple[str, str | bytes]]
Wrap = Callable[[str, Handler], Handler]


class UnaryCall(Protocol):
    """A call with one message and one reply, for whoever answers it without a coroutine."""

    def invocation_metadata(self) -> Any:
        """Return what the caller sent along."""

    def time_remaining(self) -> Any:
        """Return the seconds until the caller's deadline; None where there is none."""

    def peer(self) -> str:
        """Return the caller's address."""

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return who the caller is, under mutual TLS."""

    def when_left(self, leave: Callable[[], object]) -> None:
        """Have a function called if the caller leaves before he has his answer."""

    def finish(self, message: bytes | None, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """Send the message, if there is one, and the status; to a caller who has left, nothing."""


Begin: TypeAlias = Callable[[bytes, UnaryCall], None]
"""Begins to answer a call, given its message; raises nothing."""


class Refusal(NamedTuple):
    """What a call is sent that ends with an error: the status' code and message, and trailing metadata."""

    code: grpc.StatusCode
    details: str
    trailers: Metadata


class Routes:
    """Stands in for a server in `add_…Servicer_to_server`, and keeps the methods for whichever front end serves.

    Args:
        wrap: gets the full name ("/package.Service/Method") and the handler of every method, and returns the
            handler that is to be served; once, when the method is added.

    Attributes:
        begun: what answers calls of a method without a coroutine, by its full name, for front ends that can do so; for
            others there is its handler, which does the same.
        door: asked about every call of a method that is served, before its message is received: gets the method's
            full name and the call's metadata, returns what answers the call instead, and None to let it in. Must
            be quick, and is called from whatever thread takes calls. None: everybody is let in.
        foresight: asked after the door, with the caller's deadline on the clock of the wall (None: never) besides:
            returns what the call is refused with, and None to let it in. It is asked by one thread at a time. It is a
            short cut for front ends that know deadlines before messages; whoever is not refused by it is refused
            later. None: nobody is refused unread.
    """

    def __init__(self, wrap: Wrap) -> None:
        self._wrap = wrap
        self.begun: dict[str, Begin] = {}
        self.door: Callable[[str, Metadata], Any] | None = None  # of Handler | None
        self.foresight: Callable[[str, Metadata, float | None], Refusal | None] | None = None
        self.services: dict[str, dict[str, Handler]] = {}

    @property
    def methods(self) -> dict[str, Handler]:
        """The handlers by full name."""
        return {
            full_name(service, method): handler
            for service, handlers in self.services.items()
            for method, handler in handlers.items()
        }

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take the methods of a service; called by generated code."""
        self.services[service] = {
            method: self._wrap(full_name(service, method), handler) for method, handler in handlers.items()
        }

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Do nothing: generated code gives the same methods to `add_registered_method_handlers`."""


def full_name(service: str, method: str) -> str:
    """Return a method's name on the wire."""
    return f"/{service}/{method}"
