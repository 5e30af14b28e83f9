"""Calls that are refused before their message is received, since no image that came now would be answered in time.

    a call ─→ token? ─→ foresight ─→ its message ─→ parse ─→ admit ─→ …
                            └─ refused by its deadline and what waits, unread

Under overload most calls are refused, on the cores that serve the others. Refused here, one with a JPEG costs the
server 245 µs of processor time instead of 336, of which the event loop 143 instead of 231 (README of tests/benchmarks).
It is the decision of `Scheduler.reserve`, for one image of a kind that others wait in; whoever gets past it is asked
again when his message is there. Where nobody was refused lately, nothing is foreseen. The thread that waits for calls
refuses by itself, without waking the event loop: of calls that come one by one, each costs a quarter less so.
"""

import time
from collections.abc import Callable

from regard_server.batcher import Batcher
from regard_server.errors import OverloadedError, RegardError
from regard_server.frontend.routes import Metadata, Refusal
from regard_server.metrics import Metrics


class Foresight:
    """Asked by the front end about every call, before its message is received, by whoever takes calls.

    Args:
        method: the method that it is about, "/package.Service/Method".
        batcher: what waits.
        refuse: makes what a refused call is sent, by method, metadata and error.
        metrics: an unread call counts as one image.
        model: the name of the only model: nobody knows which of several an unread call is for.
        answer_by: says until when an answer has to leave, by now and the seconds that its caller has.
        default_timeout_s: the deadline of callers who set none.
        clock: the batcher's.
    """

    def __init__(
        self,
        method: str,
        *,
        batcher: Batcher,
        refuse: Callable[[str, Metadata, RegardError], Refusal],
        metrics: Metrics,
        model: str,
        answer_by: Callable[[float, float], float],
        default_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._method = method
        self._batcher = batcher
        self._refuse = refuse
        self._metrics = metrics
        self._model = model
        self._answer_by = answer_by
        self._default_timeout_s = default_timeout_s
        self._clock = clock

    def __call__(self, method: str, metadata: Metadata, deadline: float | None) -> Refusal | None:
        """Return what a call is refused with; None lets it in. `deadline` is the caller's, on the clock of the wall."""
        if method != self._method or not self._batcher.refusing:
            return None
        timeout_s = self._default_timeout_s if deadline is None else deadline - time.time()
        if timeout_s <= 0:
            return None  # gRPC is about to end it
        try:
            self._batcher.foresee(self._answer_by(self._clock(), timeout_s))
        except OverloadedError as error:
            self._metrics.items.apart(self._model, "shed").inc()
            return self._refuse(method, metadata, error)
        return None
