"""How much work is ahead: seconds of device time for all that waits or was promised room.

Admission asks this for every image, so the sum is kept, and only kinds of batch that changed since the last time
are reckoned anew: summing up 100 kinds for each image cost 70 to 150 µs, this costs 2.
"""

from collections.abc import Callable, Collection, Hashable

from regard_server.cost import CostModel


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
        self._seconds: dict[Hashable, float] = {}  # as it was when the key was last reckoned
        self._total_s = 0.0
        self._stale: set[Hashable] = set()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def kinds(self) -> Collection[Hashable]:
        """Return the kinds that there are any of."""
        return self._counts.keys()

    def count(self, key: Hashable) -> int:
        """Return how many of a kind there are."""
        return self._counts.get(key, 0)

    def change(self, key: Hashable, by: int) -> None:
        """Take note that there are more of a kind, or fewer."""
        count = self._counts.get(key, 0) + by
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]
        self._stale.add(key)

    def forget(self, key: Hashable) -> None:
        """Take note that a kind's costs are no longer what they were."""
        if key in self._counts:
            self._stale.add(key)

    def seconds_beside(self, key: Hashable) -> float:
        """Return what everything of other kinds costs."""
        self._reckon(key)
        return self._total_s - self._seconds.get(key, 0.0)

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
