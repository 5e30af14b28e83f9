"""The front end that drives the completion queue.

start ─→ serving ─→ stop: no more calls ─→ the last one is over, or the time is: cancel all ─→ stopped
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from regard_server.frontend.direct.call import Call
from regard_server.frontend.direct.core import CoreCall, CoreServer, OnDone, Taken, ignore, left, message
from regard_server.frontend.direct.method import Method, to_method
from regard_server.frontend.routes import Routes

# Calls that gRPC's core may hand over before it has to be asked again.
_CALLS_AHEAD = 32
_TOO_MANY_CALLS = "more calls are under way than this server takes at a time; try again, or add replicas"
# Events that are handled before the event loop's tasks have their turn, if there are so many at once.
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
        self._open = 0  # calls that are not over
        self._door = routes.door
        self._foresight = routes.foresight
        self._methods = {name: to_method(name, handler) for name, handler in routes.methods.items()}
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._on_call = self._arrive  # always the same object, so that it is known again
        self._core = CoreServer(options, self._on_call)
        self._thread = threading.Thread(target=self._wait_for_events, name="grpc", daemon=True)
        self._idle = threading.Lock()  # released by the event loop, acquired by the thread
        self._serving = False
        self._asking = threading.Lock()  # for a call, or for no more of them
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
            serving, self._serving = self._serving, False  # to ask for a call while shutting down is an error
            if serving:
                self._core.shut_down(lambda _: self._over.set_result(None))
        if not (await asyncio.wait((self._over,), timeout=grace_s))[0]:
            self._core.cancel_all()
            await asyncio.wait((self._over,))
        async with self._ending:
            if self._thread.is_alive():
                if self._calls:
                    await asyncio.wait([call.task for call in self._calls if call.task])
                self._core.destroy()
                await asyncio.to_thread(self._thread.join)

    def _wait_for_events(self) -> None:
        """Wait for an event, bring it to the event loop, wait until that wants another; the thread's function."""
        while True:
            self._idle.acquire()
            taken = self._core.take(wait=True)
            while taken and self._is_settled(*taken):
                taken = self._core.take(wait=True)
            if taken is None:
                return
            self._loop.call_soon_threadsafe(self._work, taken)
            del taken  # it would keep its call alive

    def _is_settled(self, on_done: OnDone, event: Any) -> bool:
        """Settle an event here, if that takes no more than waking the event loop; called from the waiting thread."""
        if on_done is ignore:  # half of all events
            return True
        if on_done is not self._on_call or not event.success or self._foresight is None:
            return False
        core = CoreCall(event)
        try:
            barred = core.method not in self._methods or (
                self._door and self._door(core.method, core.metadata)
            )
            if barred or not self._is_turned_away(core):
                return False
        except Exception:  # noqa: BLE001 - the event loop will meet it, too, and tell of it
            return False
        with self._asking:
            if self._serving:
                self._core.ask()
        return True

    def _is_turned_away(self, core: CoreCall) -> bool:
        """Refuse a call unread, if it is foreseen that it would be refused; called by whoever takes events."""
        refusal = self._foresight and self._foresight(core.method, core.metadata, core.deadline)
        if not refusal:
            return False
        core.refuse(refusal.code.value[0], refusal.details, tuple(refusal.trailers))
        return True

    def _work(self, taken: Taken | None = None) -> None:
        """Handle what has happened, give every task its turn, look again; when all is quiet, let the thread wait."""
        taken = taken or self._core.take(wait=False)
        if taken is None:
            self._idle.release()
            return
        for _ in range(_EVENTS_AT_ONCE):
            on_done, event = taken
            try:
                on_done(event)
            except Exception:
                self._logger.exception("a bug in the front end")
            taken = self._core.take(wait=False)
            if taken is None:
                break
        self._loop.call_soon(self._work, taken)

    def _arrive(self, event: Any) -> None:
        """Take up a call: begin to receive what the method needs before it can run."""
        if self._serving:
            self._core.ask()
        if not event.success:  # asked for, and then the server was shut down
            return
        core = CoreCall(event)
        try:
            method = self._let_in(core)
        except Exception:
            self._logger.exception("a bug in what lets %s in", core.method)
            core.refuse(grpc.StatusCode.UNKNOWN.value[0], "internal error; the server's log says why", ())
            return
        if method is None:
            return
        call = Call(core, method, loop=self._loop, logger=self._logger)
        core.watch(partial(self._see_off, call))
        self._open += 1
        if method.streams_requests:
            self._begin(call, None)
        else:
            core.receive(lambda event: self._begin(call, message(event)))

    def _let_in(self, core: CoreCall) -> Method | None:
        """Return what serves a call; None where it was refused."""
        method = self._methods.get(core.method)
        if method is None:
            core.refuse(grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!", ())
            return None
        if self._max_calls is not None and self._open >= self._max_calls:
            core.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], _TOO_MANY_CALLS, ())
            return None
        if self._door and (answer := self._door(core.method, core.metadata)):
            return to_method(core.method, answer)
        return None if self._is_turned_away(core) else method

    def _see_off(self, call: Call, event: Any) -> None:
        self._open -= 1
        if left(event):
            call.leave()

    def _begin(self, call: Call, serialized: bytes | None) -> None:
        if (
            self._over.done()
        ):  # nobody is there, and no operation may begin on a queue that is being shut down
            return
        if call.begin(serialized, self._calls.discard):
            self._calls.add(call)
