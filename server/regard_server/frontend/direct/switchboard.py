"""Who takes gRPC's events, and what is done about them: calls that come, messages, callers who leave.

    thread "grpc": wait ─→ settled here? ─→ again            a status that went out, a call refused unread
                              └─ no ─→ the event loop: take events until there are none; then the thread waits again

One of the two takes events at a time, never both: what both touch needs no lock for that reason.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import grpc

from regard_server.frontend.direct.call import Call
from regard_server.frontend.direct.core import CoreCall, CoreServer, OnDone, Taken, ignore, left, message
from regard_server.frontend.direct.method import Method, to_method
from regard_server.frontend.direct.unary import UnaryCall
from regard_server.frontend.routes import Metadata, Refusal

# Calls that gRPC's core may hand over before it has to be asked again.
_CALLS_AHEAD: Final = 32
_TOO_MANY_CALLS: Final = (
    "more calls are under way than this server takes at a time; try again, or add replicas"
)
# Events that are handled before the event loop's tasks have their turn, if there are so many at once.
_EVENTS_AT_ONCE: Final = 64
_BUG: Final = "internal error; the server's log says why"


class Switchboard:
    """Connects calls with what answers them.

    Args:
        options: gRPC's channel arguments.
        methods: what is served, by name.
        door: see `Routes`.
        foresight: see `Routes`.
        max_calls: calls at a time; more are RESOURCE_EXHAUSTED. None: any number.
        loop: the event loop.
        logger: where bugs are logged.

    Attributes:
        core: the server in gRPC's core.
        calls: those with a task that has not ended.
        closed: whether no operation may begin any more.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        *,
        methods: dict[str, Method],
        door: Callable[[str, Metadata], Any] | None,
        foresight: Callable[[str, Metadata, float | None], Refusal | None] | None,
        max_calls: int | None,
        loop: asyncio.AbstractEventLoop,
        logger: logging.Logger,
    ) -> None:
        self._methods = methods
        self._door = door
        self._foresight = foresight
        self._max_calls = max_calls
        self._loop = loop
        self._logger = logger
        self._open = 0  # calls that are not over
        self._on_call: OnDone = self._arrive  # always the same object, so that it is known again
        self._idle = threading.Lock()  # released by the event loop, acquired by the thread
        self._asking = threading.Lock()  # for a call, or for no more of them
        self._serving = False
        self.core = CoreServer(options, self._on_call)
        self.calls: set[Call] = set()
        self.closed = False

    def open(self) -> None:
        """Listen, and ask for the first calls."""
        self.core.start()
        self._serving = True
        for _ in range(_CALLS_AHEAD):
            self.core.ask()

    def shut(self, on_over: OnDone) -> None:
        """Take no more calls; `on_over` comes when the last one is over. Only the first time it does anything."""
        with self._asking:
            serving, self._serving = self._serving, False  # to ask for a call while shutting down is an error
            if serving:
                self.core.shut_down(on_over)

    def wait_for_events(self) -> None:
        """Wait for an event, bring it to the event loop, wait until that wants another, until all is over.

        The thread's function.
        """
        while True:
            self._idle.acquire()
            taken = self.core.take(wait=True)
            while taken and self._is_settled(*taken):
                taken = None  # it would keep its call alive, or the answer that went out
                taken = self.core.take(wait=True)
            if taken is None:
                return
            self._loop.call_soon_threadsafe(self._work, taken)
            del taken  # likewise

    def _is_settled(self, on_done: OnDone, event: Any) -> bool:
        """Settle an event here, if that takes no more than waking the event loop; called from the waiting thread."""
        if on_done is ignore:  # a third of all events
            return True
        if isinstance(on_done, _SeeOff) and on_done.call.finished:  # another third
            self._open -= 1
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
                self.core.ask()
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
        taken = taken or self.core.take(wait=False)
        if taken is None:
            self._idle.release()
            return
        for _ in range(_EVENTS_AT_ONCE):
            on_done, event = taken
            try:
                on_done(event)
            except Exception:
                self._logger.exception("a bug in the front end")
            taken = self.core.take(wait=False)
            if taken is None:
                break
        self._loop.call_soon(self._work, taken)

    def _arrive(self, event: Any) -> None:
        """Take up a call: begin to receive what the method needs before it can run."""
        if self._serving:
            self.core.ask()
        if not event.success:  # asked for, and then the server was shut down
            return
        core = CoreCall(event)
        try:
            method = self._let_in(core)
        except Exception:
            self._logger.exception("a bug in what lets %s in", core.method)
            core.refuse(grpc.StatusCode.UNKNOWN.value[0], _BUG, ())
            return
        if method is None:
            return
        if method.begin is not None:
            unary = UnaryCall(core, method.begin, self._logger)
            core.watch(_SeeOff(self, unary))
            self._open += 1
            core.receive(partial(self._take, unary))
            return
        call = Call(core, method, loop=self._loop, logger=self._logger)
        core.watch(_SeeOff(self, call))
        self._open += 1
        if method.streams_requests:
            self._begin(call, None)
        else:
            core.receive(partial(self._receive, call))

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

    def see_off(self, call: Call | UnaryCall, event: Any) -> None:
        """Take note that a call is over."""
        self._open -= 1
        if left(event):
            call.leave()

    def _take(self, call: UnaryCall, event: Any) -> None:
        if not self.closed:
            call.take(event)

    def _receive(self, call: Call, event: Any) -> None:
        self._begin(call, message(event))

    def _begin(self, call: Call, serialized: bytes | None) -> None:
        if self.closed:  # nobody is there, and no operation may begin on a queue that is being shut down
            return
        if call.begin(serialized, self.calls.discard):
            self.calls.add(call)


class _SeeOff:
    """Gets the event that a call is over."""

    __slots__ = ("_board", "call")

    def __init__(self, board: Switchboard, call: Call | UnaryCall) -> None:
        self._board = board
        self.call = call

    def __call__(self, event: Any) -> None:
        self._board.see_off(self.call, event)
