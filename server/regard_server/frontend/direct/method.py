"""A method as the direct front end calls it: what kind of function it is was found out beforehand."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from regard_server.frontend.routes import Begin, Handler


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    Attributes:
        name: "/package.Service/Method".
        behaviour: the servicer's function, called with a request or an iterator of them, and a context.
        streams_requests: whether many messages come.
        replies: "returns" one message, "writes" them to the context, or "yields" them.
        parse: bytes into a message.
        serialize: a message into bytes.
        begin: answers a call of one message in the behaviour's place, without a coroutine; see `Routes.begun`.
    """

    name: str
    behaviour: Callable[[Any, Any], Any]
    streams_requests: bool
    replies: Literal["returns", "writes", "yields"]
    parse: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    begin: Begin | None = None


def to_method(name: str, handler: Handler, begin: Begin | None = None) -> Method:
    """Look at a handler.

    Raises:
        TypeError: it is not asynchronous; this front end has no threads for it.
    """
    given = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    behaviour = next(each for each in given if each is not None)
    replies: Literal["returns", "writes", "yields"] = "writes" if handler.response_streaming else "returns"
    if handler.response_streaming and inspect.isasyncgenfunction(behaviour):
        replies = "yields"
    elif not inspect.iscoroutinefunction(behaviour):
        raise TypeError(f"{name} is served by {behaviour!r}; expected an async function")
    return Method(
        name=name,
        behaviour=behaviour,
        streams_requests=handler.request_streaming,
        replies=replies,
        parse=handler.request_deserializer or _as_it_is,
        serialize=handler.response_serializer or _as_it_is,
        begin=begin,
    )


def _as_it_is(message: Any) -> Any:
    return message
