"""A line of those who wait for a turn: priority class first, then the earliest deadline, then arrival.

    join ─→ [(class, deadline, number, who), …], sorted        first: the first of all, and every tenth turn
    leave ─→ gone at once, with what it holds                         the first of the least urgent class

A list in order: to find a place in it takes some comparisons, and to make or close a gap is to move pointers, 8 KB of
a thousand, which costs less than a heap's shells would. Every tenth turn goes the other way round, as a tenth of a
device's time does, so that nobody starves however many are urgent.
"""

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from typing import Any, Generic, TypeVar

from regard_server.turns import FAIR_SHARE

T = TypeVar("T")

Place = tuple[int, float, int, T]
"""Priority class, 0 first; deadline; number, by arrival; who stands there."""


class Line(Generic[T]):
    """Who waits, in order; not thread-safe."""

    __slots__ = ("_numbers", "_places", "_turns")

    def __init__(self) -> None:
        self._places: list[Any] = []  # of Place[T]; bisect is also asked for what is shorter than a place
        self._numbers = itertools.count()
        self._turns = 0

    def __len__(self) -> int:
        return len(self._places)

    def join(self, priority: int, deadline: float, who: T) -> Place[T]:
        """Let somebody wait; return his place."""
        place = (priority, deadline, next(self._numbers), who)
        insort(self._places, place)
        return place

    def put_back(self, place: Place[T]) -> None:
        """Let somebody wait who had left, or who waited in another line: where he would be had he not."""
        insort(self._places, place)

    def leave(self, place: Place[T]) -> bool:
        """Forget somebody; return whether he was still waiting."""
        index = bisect_left(self._places, place)
        if index == len(self._places) or self._places[index] is not place:
            return False
        del self._places[index]
        return True

    def ahead(self, priority: int, deadline: float) -> int:
        """Return how many a newcomer would find before him."""
        return bisect_right(self._places, (priority, deadline, math.inf))

    def first(self) -> Place[T] | None:
        """Return whose turn it is."""
        if not self._places:
            return None
        contrary = self._turns % FAIR_SHARE == FAIR_SHARE - 1
        index = bisect_left(self._places, self._places[-1][:1]) if contrary else 0
        place: Place[T] = self._places[index]
        return place

    def serve(self, place: Place[T]) -> None:
        """Take note that whoever stood there had his turn."""
        self.leave(place)
        self._turns += 1
