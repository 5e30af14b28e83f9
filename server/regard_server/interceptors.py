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
from regard_server.reply import read
from regard_server.request_id import METADATA_KEY, begin_request, name_of
from regard_server.servicers.status import to_trailers

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
        trailers = ((METADATA_KEY, request_id), *to_trailers(error, request_id))
        name, elapsed_s = method.rpartition("/")[2], time.perf_counter() - began
        self._book.record(name, error.code, elapsed_s, request_id, unread=True)
        return Refusal(error.code, error.message, trailers)

    def _guard(
        self, method: str, behaviour: Behaviour, parse: Callable[[bytes], Any] | None = None
    ) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:
            began = time.perf_counter()
            if parse is not None:
                request = read(parse, request)
            own = getattr(request, "request_id", "")
            request_id = begin_request(cast("Metadata", context.invocation_metadata() or ()), own)
            named: Metadata = ((METADATA_KEY, request_id),)
            context.set_trailing_metadata(tuple(named))
            code, details, trailers = grpc.StatusCode.OK, "", named
            try:
                if isinstance(request, MalformedRequestError):
                    raise request  # noqa: TRY301 - into a status, like what the servicer raises
                return await behaviour(request, context)
            except RegardError as error:
                code, details = error.code, error.message
                trailers = (*named, *to_trailers(error, request_id))
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED  # the caller left, or his deadline passed
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                details = f"internal error; the server's log says why (request {request_id})"
                self._book.logger.exception("a bug in %s", method)
            finally:
                self._book.record(method, code, time.perf_counter() - began, request_id)
            # gRPC keeps what `abort` raises, and with it this frame and whatever it was raised in the course of:
            # megabytes of a request would stay until the cyclic garbage collector came by.
            del request
            return await context.abort(code, details, tuple(trailers))

        return guarded
