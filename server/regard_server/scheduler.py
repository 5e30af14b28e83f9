"""The order of what waits: pure data, no threads, no clock of its own.

Entries wait in buckets, one for each kind of batch (model, input shape, cost class), because only entries of
a kind can ride together. A bucket is a heap: priority class first, then the earliest deadline, then arrival.

    add ─→ bucket[key] ─┐
    add ─→ bucket[key] ─┼─→ next_batch(now): the bucket with the most urgent head, its first max_batch entries
    add ─→ bucket[key] ─┘
    discard(entry): the caller left; gone before the next batch is formed

Batches are bound late: nobody calls `next_batch` before the device is free, so a batch is never frozen small
while the device is busy (Clockwork and Symphony bind the same way). Whoever waits past his deadline is dropped
by `next_batch` as well as by his own caller's timer: no dead work.
"""

import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Entry:
    """One image that waits.

    Attributes:
        key: which entries it may ride with.
        payload: what is run; dropped when the entry leaves, so that its memory goes at once.
        owner: whatever its submitter needs to find his way back; not looked at here.
        deadline: when an answer is worth nothing any more.
        priority: the class, 0 first.
        arrived: when it was submitted.
        waiting: whether it is in a scheduler.
    """

    key: Hashable
    payload: Any
    owner: Any
    deadline: float
    priority: int = 0
    arrived: float = 0.0
    waiting: bool = field(default=False, init=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one key that ride together, and those whose deadline had passed when it was formed."""

    key: Hashable
    entries: list[Entry]
    late: list[Entry]


class Scheduler:
    """Buckets of waiting entries. Times are seconds on the caller's monotonic clock; not thread-safe."""

    def __init__(self, max_batch: Callable[[Hashable], int]) -> None:
        self._max_batch = max_batch
        self._buckets: dict[Hashable, list[tuple[int, float, int, Entry]]] = {}
        self._numbers = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, entry: Entry) -> None:
        """Let an entry wait."""
        entry.waiting = True
        self._waiting += 1
        bucket = self._buckets.setdefault(entry.key, [])
        heapq.heappush(bucket, (entry.priority, entry.deadline, next(self._numbers), entry))

    def discard(self, entry: Entry) -> bool:
        """Take an entry out; return whether it was still waiting.

        It stays in its heap as an empty shell until it comes up, which costs nothing and keeps this O(1).
        """
        if not entry.waiting:
            return False
        self._leave(entry)
        entry.payload = None
        return True

    def next_batch(self, now: float) -> Batch | None:
        """Form the most urgent batch, or return None if nobody waits."""
        key = self._most_urgent_key()
        if key is None:
            return None
        entries: list[Entry] = []
        late: list[Entry] = []
        limit = self._max_batch(key)
        bucket = self._buckets[key]
        while bucket and len(entries) < limit:
            entry = heapq.heappop(bucket)[-1]
            if not entry.waiting:
                continue
            self._leave(entry)
            (late if entry.deadline <= now else entries).append(entry)
        if not bucket:
            del self._buckets[key]
        return Batch(key, entries, late)

    def _most_urgent_key(self) -> Hashable | None:
        best: tuple[int, float, int] | None = None
        best_key: Hashable | None = None
        for key, bucket in list(self._buckets.items()):
            while bucket and not bucket[0][-1].waiting:
                heapq.heappop(bucket)
            if not bucket:
                del self._buckets[key]
            elif best is None or bucket[0][:3] < best:
                best, best_key = bucket[0][:3], key
        return best_key

    def _leave(self, entry: Entry) -> None:
        entry.waiting = False
        self._waiting -= 1
