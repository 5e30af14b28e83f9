"""The border, for coroutines: where an error becomes a call's status, and where calls are named, counted, logged.

gRPC ─→ name the request ─→ servicer ─→ RegardError into status ─→ count, time, log ─→ gRPC
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from grpc.aio import ServicerContext

from regard_server.call_book import CallBook
from regard_server.errors import MalformedRequestError, RegardError
from regard_server.frontend.routes import Handler, Metadata, Refusal
from regard_server.reply import read, to_refusal
from regard_server.request_id import METADATA_KEY, begin_request, name_of

Context = ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class CallInterceptor:
    """Wraps the methods of our own services, once and for all calls; health and reflection pass untouched.

    Args:
        book: where calls are taken down.
        prefixes: the services that are ours, as "/package.Service/".
    """

    def __init__(self, book: CallBook, prefixes: tuple[str, ...]) -> None:
        self._book = book
        self._prefixes = prefixes

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the method's handler inside our rings."""
        if not method.startswith(self._prefixes):
            return handler
        name = method.rpartition("/")[2]
        make = grpc.unary_unary_rpc_method_handler
        behaviour = handler.unary_unary
        # Here rather than in gRPC, which would answer what cannot be read with UNKNOWN.
        parse, received = handler.request_deserializer, None
        if handler.stream_stream is not None:
            make = cast("Any", grpc.stream_stream_rpc_method_handler)
            behaviour = cast("Any", handler.stream_stream)
            parse, received = None, handler.request_deserializer
        return make(
            cast("Any", self._guard(name, cast("Behaviour", behaviour), parse)),
            received,
            handler.response_serializer,
        )

    def refuse(self, method: str, error: RegardError) -> Handler:
        """Return what answers a call of a method with an error, and receives nothing of it."""

        async def raise_it(_request: Any, _context: Context) -> None:
            raise error

        make = cast("Any", grpc.stream_stream_rpc_method_handler)
        refusal: Handler = make(self._guard(method.rpartition("/")[2], raise_it))
        return refusal

    def refuse_unread(self, method: str, metadata: Metadata, error: RegardError) -> Refusal:
        """Return what a call is sent that ends with an error before its message is received; by whoever takes calls."""
        began = time.perf_counter()
        request_id = name_of(metadata)
        refusal = to_refusal(error, request_id)
        name, elapsed_s = method.rpartition("/")[2], time.perf_counter() - began
        self._book.record(name, error.code, elapsed_s, request_id, unread=True)
        return refusal

    def _guard(
        self, method: str, behaviour: Behaviour, parse: Callable[[bytes], Any] | None = None
    ) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:
            began = time.perf_counter()
            if parse is not None:
                request = read(parse, request)
            own = getattr(request, "request_id", "")
            request_id = begin_request(cast("Metadata", context.invocation_metadata() or ()), own)
            context.set_trailing_metadata(((METADATA_KEY, request_id),))
            code = grpc.StatusCode.OK
            try:
                if isinstance(request, MalformedRequestError):
                    raise request  # noqa: TRY301 - into a status, like what the servicer raises
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED  # the caller left, or his deadline passed
                raise
            except Exception as error:
                if not isinstance(error, RegardError):
                    self._book.logger.exception("a bug in %s", method)
                code, details, trailers = to_refusal(error, request_id)
            finally:
                self._book.record(method, code, time.perf_counter() - began, request_id)
            # gRPC keeps what `abort` raises, and with it this frame and whatever it was raised in the course of:
            # megabytes of a request would stay until the cyclic garbage collector came by.
            del request
            return await context.abort(code, details, tuple(trailers))

        return guarded
