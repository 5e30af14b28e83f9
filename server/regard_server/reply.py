"""The border, for calls without a coroutine: where an error becomes a status, and a call is named, counted and logged.

    a call ─→ name it ─→ the servicer's function ─→ … ─→ Reply: answer or error into status ─→ count, time, log ─→ gRPC

It does for those what `interceptors.py` does for coroutines.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from regard_server.call_book import CallBook
from regard_server.errors import MalformedRequestError, RegardError
from regard_server.frontend.routes import Begin, Metadata, Refusal, UnaryCall
from regard_server.request_id import METADATA_KEY, name_of, under
from regard_server.servicers.status import to_trailers

_OK: Final = grpc.StatusCode.OK


class Reply:
    """What one call is still to be sent, once: its answer, or what went wrong."""

    __slots__ = ("_began", "_book", "_call", "_method", "request_id")

    def __init__(self, method: str, call: UnaryCall, book: CallBook, request_id: str, began: float) -> None:
        self._method = method
        self._call = call
        self._book = book
        self._began = began
        self.request_id = request_id

    def send(self, make: Callable[[], bytes]) -> None:
        """Answer with the message that `make` returns, or with the error that it raises."""
        try:
            message = make()
        except Exception as error:  # noqa: BLE001 - a bug among them, which `fail` tells of
            self.fail(error)
            return
        self._record(_OK)
        self._call.finish(message, _OK, "", ((METADATA_KEY, self.request_id),))

    def fail(self, error: BaseException) -> None:
        """Answer with an error; without details where it is a bug, which is logged. Who has left is sent nothing."""
        if not isinstance(error, RegardError | asyncio.CancelledError):
            under(
                self.request_id,
                partial(self._book.logger.error, "a bug in %s", self._method, exc_info=error),
            )
        code, details, trailers = to_refusal(error, self.request_id)
        self._record(code)
        self._call.finish(None, code, details, trailers)

    def _record(self, code: grpc.StatusCode) -> None:
        self._book.record(self._method, code, time.perf_counter() - self._began, self.request_id)


def guarded(
    method: str,
    behaviour: Callable[[Any, UnaryCall, Reply], None],
    parse: Callable[[bytes], Any],
    book: CallBook,
) -> Begin:
    """Return what begins calls of a method, given their message.

    Args:
        method: its name, without the service's.
        behaviour: gets the parsed message, the call and its reply. It may raise instead of replying.
        parse: bytes into a message.
        book: where calls are taken down.
    """

    def begin(data: bytes, call: UnaryCall) -> None:
        began = time.perf_counter()
        request = read(parse, data)
        metadata: Iterable[tuple[str, str | bytes]] = call.invocation_metadata()
        request_id = name_of(metadata, getattr(request, "request_id", ""))
        reply = Reply(method, call, book, request_id, began)
        if isinstance(request, MalformedRequestError):
            reply.fail(request)
            return
        try:
            behaviour(request, call, reply)
        except Exception as error:  # noqa: BLE001 - likewise
            reply.fail(error)

    return begin


def to_refusal(error: BaseException, request_id: str) -> Refusal:
    """Return what a call is sent that ends with an error; nothing of the error where it is a bug."""
    named: Metadata = ((METADATA_KEY, request_id),)
    if isinstance(error, RegardError):
        return Refusal(error.code, error.message, (*named, *to_trailers(error, request_id)))
    if isinstance(error, asyncio.CancelledError):
        return Refusal(grpc.StatusCode.CANCELLED, "the server cancelled the call", named)
    bug = f"internal error; the server's log says why (request {request_id})"
    return Refusal(grpc.StatusCode.INTERNAL, bug, named)


def read(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """Return a message, or the error that it is none."""
    try:
        return parse(data)
    except MalformedRequestError as error:
        return error.with_traceback(None)  # which would hold the data
    except DecodeError:
        return MalformedRequestError("the request cannot be read; expected a message of the method's type")
