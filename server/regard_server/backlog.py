"""How much work is ahead: seconds of device time for all that waits or was promised room, of one priority class.

    everybody       counts by kind, and what they cost: kept, asked for every image
    who is due by   counts by kind and slot of 1/32 s: asked where everybody is too much for somebody's deadline

Admission asks this for every image, so the sum is kept, and only kinds of batch that changed since the last time
are reckoned anew: summing up 100 kinds for each image cost 70 to 150 µs, this costs 2. Whoever is due after all the
others, as everybody is where all have as much time, has everybody ahead of him, and nothing is looked through.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Final

from regard_server.cost import CostModel

_SLOTS_A_SECOND: Final = 32
_NEVER_S: Final = 1 << 40
_NEVER: Final = _NEVER_S * _SLOTS_A_SECOND


class Backlog:
    """Counts by kind of batch, and what they cost in as few batches as possible. Not thread-safe.

    Args:
        max_batch: the largest batch of a key.
        costs: l(b); `forget` must be told of a key whose costs have changed.
    """

    def __init__(self, max_batch: Callable[[Hashable], int], costs: CostModel) -> None:
        self._max_batch = max_batch
        self._costs = costs
        self._counts: dict[Hashable, int] = {}
        self._due: dict[tuple[int, Hashable], int] = {}  # by slot and key
        self._last = -1  # no slot is later
        self._seconds: dict[Hashable, float] = {}  # as it was when the key was last reckoned
        self._total_s = 0.0
        self._stale: set[Hashable] = set()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def kinds(self) -> Collection[Hashable]:
        """Return the kinds that there are any of."""
        return self._counts.keys()

    def counts(self) -> Mapping[Hashable, int]:
        """Return how many of each kind there are."""
        return self._counts

    def count(self, key: Hashable) -> int:
        """Return how many of a kind there are."""
        return self._counts.get(key, 0)

    def change(self, key: Hashable, deadline: float, by: int) -> None:
        """Take note that there are more of a kind and a deadline, or fewer."""
        counts, count = self._counts, self._counts.get(key, 0) + by
        if count:
            counts[key] = count
        else:
            del counts[key]
        slot = slot_of(deadline)
        due, place = self._due, (slot, key)
        count = due.get(place, 0) + by
        if not count:
            del due[place]
        else:
            due[place] = count
            if slot > self._last:  # noqa: PLR1730 - half of what `max` takes, for every image
                self._last = slot
        self._stale.add(key)

    def forget(self, key: Hashable) -> None:
        """Take note that a kind's costs are no longer what they were."""
        if key in self._counts:
            self._stale.add(key)

    def seconds_beside(self, key: Hashable) -> float:
        """Return what everything of other kinds costs."""
        self._reckon(key)
        return self._total_s - self._seconds.get(key, 0.0)

    def due_by(self, deadline: float) -> Mapping[Hashable, int] | None:
        """Return how many of each kind are due by then, to within a slot; None if it is all of them."""
        slot = slot_of(deadline)
        if slot >= self._last:
            return None
        last = -1
        due: dict[Hashable, int] = {}
        for (each, key), count in self._due.items():
            if each <= slot:
                due[key] = due.get(key, 0) + count
            last = max(last, each)
        self._last = last
        return due if slot < last else None

    def _reckon(self, but: Hashable) -> None:
        """Reckon anew what has changed, but for the kind that nobody asks for."""
        for key in self._stale - {but}:
            self._stale.remove(key)
            count = self._counts.get(key, 0)
            seconds = self._costs.backlog(key, count, self._max_batch(key)) if count else 0.0
            self._total_s += seconds - self._seconds.pop(key, 0.0)
            if count:
                self._seconds[key] = seconds
        if not self._counts:
            self._total_s = self._seconds.get(but, 0.0)  # rounding errors end here


def slot_of(deadline: float) -> int:
    """Return the slot that a deadline is in."""
    return int(deadline * _SLOTS_A_SECOND) if deadline < _NEVER_S else _NEVER
