"""Whose time is over: one timer of the event loop for everybody, instead of one for each.

    add(deadline, item) ─→ heap ─→ the earliest deadline has come: item.expire(), and the next one's timer
    left()                 the item stays as an empty shell until it comes up, or until shells are the most

A timer of asyncio's own is an object or two that Python compares; here they are tuples, which C does.
"""

import asyncio
import heapq
import math
from typing import Final, Protocol

from regard_server.to_all import to_all

# So many shells are not worth a clean-up.
_FEW_SHELLS: Final = 64


class Expiring(Protocol):
    """What has a deadline.

    Attributes:
        over: whether it has ended, so that its deadline means nothing any more.
    """

    over: bool

    def expire(self) -> None:
        """End it: the time is over."""


class Expiry:
    """Deadlines on the clock of the running loop; used from it only."""

    __slots__ = ("_due", "_heap", "_live", "_loop", "_number", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Expiring]] = []
        self._number = 0
        self._live = 0
        self._due = math.inf  # when the timer is
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, item: Expiring) -> None:
        """Have an item told when its time is over, unless it is over before."""
        self._number += 1
        self._live += 1
        heapq.heappush(self._heap, (deadline, self._number, item))
        if deadline < self._due:
            self._set_timer(deadline)

    def left(self) -> None:
        """Take note that an item is over, expired or not; throw the shells away when they are the most."""
        self._live -= 1
        if len(self._heap) > 2 * self._live + _FEW_SHELLS:
            self._heap = [each for each in self._heap if not each[2].over]
            heapq.heapify(self._heap)

    def _look(self) -> None:
        """Set the next timer, and expire whose time is over."""
        now = self._loop.time()
        self._due, self._timer = math.inf, None
        ended: list[Expiring] = []
        while self._heap and (self._heap[0][2].over or self._heap[0][0] <= now):
            ended.append(heapq.heappop(self._heap)[2])
        if self._heap:
            self._set_timer(self._heap[0][0])
        to_all(ended, _expire)

    def _set_timer(self, due: float) -> None:
        """Set a timer instead of the one there is: each would set its next, and they would become ever more."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._look)


def _expire(item: Expiring) -> None:
    if not item.over:  # it may have ended with one before it
        item.expire()
