"""What a servicer may ask and tell about its call: `grpc.aio.ServicerContext` over the core."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Never

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import EOF, AbortError, ServicerContext

from regard_server.frontend.direct.core import CallOverError, CoreCall, Metadata, message
from regard_server.frontend.direct.method import Method


class Context(ServicerContext[Any, Any]):
    """One call, for its servicer. Used from the event loop."""

    def __init__(self, core: CoreCall, method: Method, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._method = method
        self._loop = loop
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._left = False
        self.finished = False

    def invocation_metadata(self) -> Any:
        """Return what the caller sent along."""
        return self._core.metadata

    def time_remaining(self) -> Any:
        """Return the seconds until the caller's deadline; None where there is none."""
        deadline = self._core.deadline
        return None if deadline is None else max(deadline - time.time(), 0.0)

    async def read(self) -> Any:
        """Return the caller's next message, or EOF when he has no more; what is no message ends the call."""
        event = await self._done(self._core.receive)
        received = message(event)
        if received is None:
            if self._left:
                raise asyncio.CancelledError
            return EOF
        try:
            return self._method.parse(received)
        except DecodeError:  # the caller's fault: no bug, and nothing for the log
            await self.abort(grpc.StatusCode.INTERNAL, "the request cannot be read")

    async def write(self, message: Any) -> None:
        """Send a message; returns when there is room for the next."""
        serialized = self._method.serialize(message)
        await self._done(lambda on_done: self._core.send(serialized, on_done))

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send metadata before the first message.

        Raises:
            RuntimeError: it is too late.
        """
        if self._core.opened:
            raise RuntimeError("initial metadata was sent already")
        await self._done(lambda on_done: self._core.open(tuple(initial_metadata), on_done))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Never:
        """End the call with an error; raises `AbortError`, which is to end the servicer's function."""
        if code is grpc.StatusCode.OK:
            raise ValueError("a call cannot be aborted with OK; expected the code of an error")
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._details = details or self._details
        self._code = code
        self.finish(None)
        raise AbortError("aborted by its servicer")

    async def abort_with_status(self, status: Any) -> Never:
        """End the call with an error, as `abort`."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what goes out with the status."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """Return what was set."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code that the call ends with; OK unless set."""
        self._code = code

    def code(self) -> Any:
        """Return what was set."""
        return self._code

    def set_details(self, details: str) -> None:
        """Set the message of the status."""
        self._details = details

    def details(self) -> str:
        """Return what was set."""
        return self._details

    def peer(self) -> str:
        """Return the caller's address."""
        return self._core.peer()

    def peer_identity_key(self) -> str | None:
        """Return the name of the property that says who the caller is."""
        return self._core.identities()[0]

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return who the caller is, under mutual TLS."""
        return self._core.identities()[1]

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what is known of the connection's security."""
        return self._core.identities()[2]

    def set_compression(self, compression: grpc.Compression) -> None:
        """Have the messages compressed, where the caller can read them so.

        Raises:
            RuntimeError: it is too late.
        """
        if self._core.opened:
            raise RuntimeError("initial metadata was sent already")
        self._core.compress(compression)

    def disable_next_message_compression(self) -> None:
        """Have the next message sent as it is."""
        self._core.leave_next_message()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have a function called with this context when the call is over."""
        self._callbacks.append(callback)

    def done(self) -> bool:
        """Return whether the status was sent."""
        return self.finished

    def cancelled(self) -> bool:
        """Return whether the caller left."""
        return self._left

    def finish(self, response: bytes | None) -> None:
        """Send the last message, if there is one, and the status. The second time, or to nobody, it does nothing."""
        if self.finished or self._left:
            return
        self.finished = True
        code = self._code or grpc.StatusCode.OK
        last = response if code is grpc.StatusCode.OK else None
        try:
            self._core.finish(last, code.value[0], self._details, self._trailing)
        except CallOverError:
            self._left = True

    async def requests(self) -> AsyncIterator[Any]:
        """Iterate over the caller's messages."""
        while (request := await self.read()) is not EOF:
            yield request

    async def _done(self, begin: Callable[[Callable[[Any], None]], None]) -> Any:
        """Begin an operation and wait until it is done.

        Raises:
            asyncio.CancelledError: the caller has left.
        """
        if self.finished or self._left:
            raise asyncio.CancelledError
        done: asyncio.Future[Any] = self._loop.create_future()
        begin(partial(_settle, [done]))
        event = await done
        if not event.success:
            raise asyncio.CancelledError
        return event


def _settle(waiting: list[asyncio.Future[Any]], event: Any) -> None:
    # The event holds this function and its argument. Were the future still there, it and the event would keep each
    # other, and with them the message, until the cyclic garbage collector came by.
    done = waiting.pop()
    if not done.done():
        done.set_result(event)
