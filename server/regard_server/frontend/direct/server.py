"""The front end that drives the completion queue.

start ─→ serving ─→ stop: no more calls ─→ the last one is over, or the time is: cancel all ─→ stopped
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from regard_server.frontend.direct.call import Call
from regard_server.frontend.direct.core import CoreCall, CoreServer, ignore, left, message
from regard_server.frontend.direct.method import to_method
from regard_server.frontend.routes import Routes

# Calls that gRPC's core may hand over before it has to be asked again.
_CALLS_AHEAD = 32
_TOO_MANY_CALLS = "more calls are under way than this server takes at a time; try again, or add replicas"
# Events that are taken before the event loop hears of them, if there are so many at once.
_EVENTS_AT_ONCE = 64


class DirectFrontEnd:
    """Serves routes from gRPC's completion queue. Construct and use it in the event loop that it is to run in.

    Args:
        routes: what is served.
        options: gRPC's channel arguments.
        logger: where bugs are logged.
        max_calls: calls at a time, over all connections; more are RESOURCE_EXHAUSTED. None: any number.

    Raises:
        TypeError: a route is served by a function that is not asynchronous.
    """

    name = "direct"

    def __init__(
        self,
        routes: Routes,
        options: Sequence[tuple[str, Any]],
        logger: logging.Logger,
        *,
        max_calls: int | None = None,
    ) -> None:
        self._max_calls = max_calls
        self._open = 0  # calls that are not over, as the thread knows them
        self._door = routes.door
        self._methods = {name: to_method(name, handler) for name, handler in routes.methods.items()}
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._core = CoreServer(options, self._arrive)
        self._thread = threading.Thread(target=self._take_events, name="grpc", daemon=True)
        self._asking = threading.Lock()  # to ask for a call while shutting down is an error
        self._serving = False
        self._inbox: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._woken = False
        self._calls: set[Call] = set()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._ending = asyncio.Lock()

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind an address, with TLS where there are credentials; return the port.

        Raises:
            OSError: it cannot be bound.
        """
        port = self._core.bind(address, credentials)
        if not port:
            raise OSError(f"cannot listen on {address}; is another server there?")
        return port

    async def start(self) -> None:
        """Begin to take calls."""
        self._core.start()
        self._serving = True
        for _ in range(_CALLS_AHEAD):
            self._core.ask()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and cancel those that are not over in time; again and again if need be."""
        if not self._thread.ident:  # never started
            return
        with self._asking:
            serving, self._serving = self._serving, False
        if serving:
            self._core.shut_down(lambda _: self._post(self._over.set_result, None))
        if not (await asyncio.wait((self._over,), timeout=grace_s))[0]:
            self._core.cancel_all()
            await asyncio.wait((self._over,))
        async with self._ending:
            if self._thread.is_alive():
                if self._calls:
                    await asyncio.wait([call.task for call in self._calls if call.task])
                self._core.destroy()
                await asyncio.to_thread(self._thread.join)

    def _take_events(self) -> None:
        """Take events until the core is destroyed; the thread's function."""
        while self._take(wait=True):
            for _ in range(_EVENTS_AT_ONCE):
                if not self._take(wait=False):
                    break
            self._wake()

    def _take(self, *, wait: bool) -> bool:
        """Take one event, if there is one. It is forgotten on return: it would keep its call alive."""
        taken = self._core.take(wait=wait)
        if taken is None:
            return False
        on_done, event = taken
        try:
            on_done(event)
        except Exception:
            self._logger.exception("a bug in the front end")
        return True

    def _arrive(self, event: Any) -> None:
        """Take up a call: begin to receive what the method needs before it can run."""
        with self._asking:
            if self._serving:
                self._core.ask()
        if not event.success:  # asked for, and then the server was shut down
            return
        core = CoreCall(event)
        method = self._methods.get(core.method)
        if method is None:
            core.watch(ignore)
            core.finish(None, grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!", ())
            return
        if self._max_calls is not None and self._open >= self._max_calls:
            core.watch(ignore)
            core.finish(None, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], _TOO_MANY_CALLS, ())
            return
        if self._door and (answer := self._door(core.method, core.metadata)):
            method = to_method(core.method, answer)
        call = Call(core, method, post=self._post, loop=self._loop, logger=self._logger)
        self._open += 1
        core.watch(lambda event: self._see_off(call, event))
        if method.streams_requests:
            self._post(self._begin, (call, None))
        else:
            core.receive(lambda event: self._post(self._begin, (call, message(event))))

    def _see_off(self, call: Call, event: Any) -> None:
        self._open -= 1
        if left(event):
            self._post(call.leave, None)

    def _begin(self, arrived: tuple[Call, bytes | None]) -> None:
        call, serialized = arrived
        if call.begin(serialized, self._calls.discard):
            self._calls.add(call)

    def _post(self, function: Callable[[Any], object], argument: object) -> None:
        self._inbox.append((function, argument))

    def _wake(self) -> None:
        """Have the event loop work off the inbox; once for all that gathers until it does."""
        if self._inbox and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._work_off)

    def _work_off(self) -> None:
        self._woken = False  # before the inbox is looked at: what comes later wakes the loop again
        for _ in range(len(self._inbox)):
            function, argument = self._inbox.popleft()
            function(argument)
