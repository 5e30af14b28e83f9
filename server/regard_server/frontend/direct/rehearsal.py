"""The start-up self-test: a server of four methods and a caller, both in this process, on a socket of their own.

What it goes through is what serving needs: a message and back, metadata both ways, an error with details, a
stream, a caller who leaves, and the end.
"""

import asyncio
import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc

from regard_server.frontend.direct.server import DirectFrontEnd
from regard_server.frontend.routes import Routes

_SERVICE = "regard.Rehearsal"
# Beside five times more work than the machine has cores it took 0.3 s, seldom 3, and once more than 5: and whoever
# gives up on it serves at a multiple of the cost from then on.
_PATIENCE_S = 20.0
_BINARY = ("rehearsal-bin", b"\x00\xff")
_TEXT = ("rehearsal", "text")


class RehearsalError(Exception):
    """Something went otherwise than gRPC promises; the message says what."""


async def rehearse(logger: logging.Logger) -> None:
    """Serve a few calls.

    Raises:
        RehearsalError: one of them went wrong, or took too long.
        OSError: there is no place for a socket.
    """
    waiting, left = threading.Event(), threading.Event()
    routes = Routes(lambda _, handler: handler)
    routes.add_registered_method_handlers(_SERVICE, _handlers(waiting, left))
    server = DirectFrontEnd(routes, (), logger)
    with tempfile.TemporaryDirectory(prefix="regard-") as folder:
        address = f"unix:{Path(folder) / 'socket'}"
        server.listen(address)
        await server.start()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.to_thread(_call_all, address, waiting, left)
        except (grpc.RpcError, TimeoutError) as error:
            raise RehearsalError(f"a call of the rehearsal failed: {error!r}") from error
        finally:
            await server.stop(0.0)


def _handlers(waiting: threading.Event, left: threading.Event) -> dict[str, Any]:
    async def echo(request: bytes, context: Any) -> bytes:
        echoed = [pair for pair in context.invocation_metadata() if pair[0] == _TEXT[0]]
        context.set_trailing_metadata((_BINARY, *echoed))
        return request if 0 < context.time_remaining() < 2 * _PATIENCE_S else b"another deadline"

    async def refuse(_: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing", (_BINARY,))
        raise AssertionError("abort returned")

    async def stream(requests: Any, context: Any) -> None:
        async for request in requests:
            await context.write(request)

    async def wait(_: bytes, __: Any) -> bytes:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return b""

    unary = grpc.unary_unary_rpc_method_handler
    either: Any = grpc.stream_stream_rpc_method_handler
    given: dict[str, Any] = {"Echo": unary(echo), "Refuse": unary(refuse), "Wait": unary(wait)}
    return given | {"Stream": either(stream)}


def _call_all(address: str, waiting: threading.Event, left: threading.Event) -> None:
    """Be the caller; in a thread of its own."""
    channel: Any  # the stubs know no methods without serializers
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        echo = channel.unary_unary(f"/{_SERVICE}/Echo")
        answer, call = echo.with_call(b"message", timeout=_PATIENCE_S, metadata=(_TEXT,))
        _expect("an echo", answer, b"message")
        _expect("metadata", set(call.trailing_metadata()), {_TEXT, _BINARY})
        refuse = channel.unary_unary(f"/{_SERVICE}/Refuse")
        try:
            refuse(b"", timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            refused: Any = error
            _expect("a code", refused.code(), grpc.StatusCode.NOT_FOUND)
            _expect("details", refused.details(), "nothing")
            _expect("trailers", set(refused.trailing_metadata()), {_BINARY})
        stream = channel.stream_stream(f"/{_SERVICE}/Stream")
        messages = [b"1", b"2", b"3"]
        _expect("a stream", list(stream(iter(messages), timeout=_PATIENCE_S)), messages)
        leaving = channel.unary_unary(f"/{_SERVICE}/Wait").future(b"", timeout=_PATIENCE_S)
        _expect("a call under way", waiting.wait(_PATIENCE_S), wanted=True)
        leaving.cancel()
        _expect("news of the caller's leaving", left.wait(_PATIENCE_S), wanted=True)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise RehearsalError(f"{what} was {found!r}; expected {wanted!r}")
