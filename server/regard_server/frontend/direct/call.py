"""One call, from its arrival to its status: a task of the event loop with the servicer's function in it.

begin(message) ─→ task: parse ─→ behave ─→ serialize ─→ finish
leave()  ────────────────↯ cancelled          └─→ a bug: logged, UNKNOWN without details
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import AbortError

from regard_server.frontend.direct.context import Context
from regard_server.frontend.direct.core import CoreCall
from regard_server.frontend.direct.method import Method


class Call(Context):
    """A context that runs its servicer's function. Used from the event loop.

    Args:
        core: the call in gRPC's core.
        method: what is called.
        loop: the event loop.
        logger: where bugs are logged.
    """

    def __init__(
        self,
        core: CoreCall,
        method: Method,
        *,
        loop: asyncio.AbstractEventLoop,
        logger: logging.Logger,
    ) -> None:
        super().__init__(core, method, loop)
        self._logger = logger
        self._serialized: bytes | None = None
        self._running = False
        self.task: asyncio.Task[None] | None = None

    def begin(self, serialized: bytes | None, on_over: Callable[["Call"], None]) -> bool:
        """Run the servicer's function in a task; return False where the caller has left already.

        Args:
            serialized: the request; None where the method takes a stream of them, or where none came.
            on_over: called when the function has ended.
        """
        if self._left:
            return False
        self._serialized = serialized
        self.task = self._loop.create_task(self._run(on_over))
        return True

    def leave(self) -> None:
        """The caller has left: end the servicer's function, if it still runs."""
        self._left = True
        # A task that is cancelled before its first step never ends what it should; this one sees for itself. Nobody
        # else cancels it but an event loop that is closed under the server.
        if self.task and self._running and not self.finished:
            self.task.cancel()

    async def _run(self, on_over: Callable[["Call"], None]) -> None:
        self._running = True
        try:
            if not self._left:
                self.finish(await self._behave())
        except AbortError:
            pass  # the status is on its way
        except asyncio.CancelledError:
            # Where it was not the caller who left, he is to be told. It goes no further: a task that ends cancelled
            # holds its frames, and so the request, until the cyclic garbage collector comes by.
            self._fail(grpc.StatusCode.CANCELLED, "the server cancelled the call")
        except Exception:
            self._logger.exception("a bug in %s", self._method.name)
            self._fail(grpc.StatusCode.UNKNOWN, "internal error; the server's log says why")
        finally:
            self._end(on_over)

    async def _behave(self) -> bytes | None:
        method = self._method
        if method.streams_requests:
            request: Any = self.requests()
        elif self._serialized is None:
            self._fail(grpc.StatusCode.INTERNAL, "the call ended without a request")
            return None
        else:
            try:
                request = method.parse(self._serialized)
            except Exception:  # noqa: BLE001 - whatever it is, the caller sent something else than a request
                self._fail(grpc.StatusCode.INTERNAL, "the request cannot be read")
                return None
            self._serialized = None  # it may be large, and is of no more use
        if method.replies == "returns":
            return method.serialize(await method.behaviour(request, self))
        if method.replies == "writes":
            await method.behaviour(request, self)
        else:
            async for response in method.behaviour(request, self):
                await self.write(response)
        return None

    def _fail(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details
        self.finish(None)

    def _end(self, on_over: Callable[["Call"], None]) -> None:
        self.task = None  # it and this call would keep each other
        on_over(self)
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:
                self._logger.exception("a bug in what was to be done after %s", self._method.name)
