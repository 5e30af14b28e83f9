"""Those who wait, in order: priority class first, then the earliest deadline, then arrival.

    push ─→ heap of class 0: (deadline, number, entry) …      head(0) ─→ the first who still waits
    push ─→ heap of class 1: …                                head(1)
    left ─→ the entry stays as an empty shell until it comes up, or until shells are the most

Leaving is O(1) and joining O(log n), however many wait. An entry is what came together of one request, which spares
each of its images all of this: many small ones in a message cost little more than one.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

# So many shells are not worth a clean-up.
_FEW_SHELLS = 64


class Divisible(Protocol):
    """What the payload of an entry of several images has to be."""

    def divide(self, count: int) -> tuple[Self, Self]:
        """Return the first so many images, and the rest."""


@dataclass(eq=False, slots=True)
class Entry:
    """Images of one request that came together, and wait together: one, or several that may ride in one batch.

    They have one deadline, so what is said of one of them holds for all. Where a batch has no room for all, it takes
    the first ones, and the entry goes on with the rest.

    Attributes:
        key: which entries it may ride with.
        payload: what is run; dropped when the entry leaves, so that its memory goes at once. `Divisible`, if it is
            of several images.
        owner: whatever its submitter needs to find his way back; not looked at here, and dropped likewise.
        deadline: when an answer is worth nothing any more.
        priority: the class, 0 first.
        arrived: when it was submitted.
        size: how many images it is.
        first: how many of those that it was submitted with have gone before.
        promised: whether it has been promised room, so that it is counted already.
        waiting: whether it is in a scheduler.
    """

    key: Hashable
    payload: Any
    owner: Any
    deadline: float
    priority: int = 0
    arrived: float = 0.0
    size: int = 1
    first: int = 0
    promised: bool = False
    waiting: bool = field(default=False, init=False)

    def divide(self, count: int) -> "Entry":
        """Return the first so many images as an entry of their own, and go on with the rest."""
        payload, self.payload = self.payload.divide(count)
        part = Entry(
            self.key, payload, self.owner, self.deadline, self.priority, self.arrived, count, self.first
        )
        self.first += count
        self.size -= count
        return part


class Queue:
    """Entries by priority class, then deadline, then number. Whoever left stays as a shell until it comes up."""

    __slots__ = ("_entries", "_heaps", "_shells", "since", "waiting")

    def __init__(self) -> None:
        self._heaps: dict[int, list[tuple[float, int, Entry]]] = {}
        self._entries = self._shells = 0
        self.waiting = 0  # images
        self.since: float | None = None  # when a device was first free for it

    def push(self, entry: Entry, number: int) -> None:
        """Let an entry wait; numbers rise in the order of arrival."""
        heapq.heappush(self._heaps.setdefault(entry.priority, []), (entry.deadline, number, entry))
        self._entries += 1
        self.waiting += entry.size

    def took(self, count: int) -> None:
        """Take note that so many images of an entry wait no longer, and the rest of it does."""
        self.waiting -= count

    def left(self, count: int) -> None:
        """Take note that an entry of so many images waits no longer; throw the shells away when they are the most."""
        self.waiting -= count
        self._entries -= 1
        self._shells += 1
        if self._shells > self._entries + _FEW_SHELLS:
            for heap in self._heaps.values():
                heap[:] = [item for item in heap if item[-1].waiting]
                heapq.heapify(heap)
            self._shells = 0

    def classes(self) -> list[int]:
        """Return the priority classes that may have somebody, most urgent first."""
        return sorted(self._heaps)

    def head(self, priority: int) -> Entry | None:
        """Return the first entry of a class."""
        heap = self._heaps[priority]
        while heap and not heap[0][-1].waiting:
            heapq.heappop(heap)
            self._shells -= 1
        if heap:
            return heap[0][-1]
        del self._heaps[priority]
        return None
