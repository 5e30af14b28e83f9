"""Takes down every call: requests by method and code, their duration, and a line in the log.

Failures are logged as info, the rest as debug. Under overload that would be thousands of lines a second, all alike, and
a seventh of what the refusals cost: so of calls that are refused for want of room one a second is told of, and how many
there were besides.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import grpc

from regard_server.metrics import Metrics
from regard_server.request_id import under

_OK: Final = grpc.StatusCode.OK
_REFUSED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED
# Between two lines about refusals.
_QUIET_S: Final = 1.0


class CallBook:
    """Takes down calls.

    Args:
        metrics: where they are counted.
        logger: where they are logged.
        clock: monotonic seconds.
    """

    def __init__(
        self, metrics: Metrics, logger: logging.Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds
        self._refusals, self._unread = _Refusals(clock), _Refusals(clock)
        self.logger = logger

    def record(
        self, method: str, code: grpc.StatusCode, elapsed_s: float, request_id: str, *, unread: bool = False
    ) -> None:
        """Take down how a call ended; of one that was refused `unread`, by whoever takes calls."""
        requests, seconds = self._requests, self._seconds
        level, name, others = logging.INFO, code.name if code is not _OK else "OK", 0
        (requests.apart if unread else requests.labels)(method, name).inc()
        (seconds.apart if unread else seconds.labels)(method).observe(elapsed_s)
        if code is _REFUSED:
            others = (self._unread if unread else self._refusals).others()
        if code is _OK or others < 0:
            level = logging.DEBUG
        if self.logger.isEnabledFor(level):
            besides = f", and {others} more since the last line" if others > 0 else ""
            line = ("%s %s in %.1f ms%s", method, name, elapsed_s * 1000, besides)
            under(request_id, partial(self.logger.log, level, *line))


class _Refusals:
    """Says which refusals are told of. Used from one thread at a time."""

    __slots__ = ("_clock", "_told", "_untold")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told = -math.inf
        self._untold = 0

    def others(self) -> int:
        """Return how many were not told of before this one, which is told of; -1 where it is not."""
        now = self._clock()
        if now - self._told < _QUIET_S:
            self._untold += 1
            return -1
        self._told = now
        others, self._untold = self._untold, 0
        return others
