"""What a batch costs: l(b), the seconds that a batch of b takes, learnt for every kind of batch.

    l(b)                 ·   seen sizes, each with its own running high estimate
      │             ·  /     between two of them: a straight line
      │      ·  /            beyond the largest: on along the last line
      │  ·/
      └──────────────── b

An estimate rises fast and falls slowly (an expectile of about the 90th percentile), because a promise that was
kept too early costs nothing and one that was broken costs the whole computation. One outlier can at most double
it. Before anything was seen the answer is 0: nobody is refused on a guess.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable

# Steps towards a sample above and below the estimate; their ratio sets how high in the distribution it stays.
_RISE = 0.3
_FALL = 0.033
_MOST_RISE = 2.0
_MOST_KEYS = 1024


class CostModel:
    """Learnt costs, by key and batch size. Seconds throughout; not thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, dict[int, float]] = {}
        self._sizes: dict[Hashable, list[int]] = {}  # sorted

    def observe(self, key: Hashable, size: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        seen = self._seen.pop(key, None)
        if seen is None:
            self._forget_oldest()
            seen = {}
        self._seen[key] = seen  # the newest is last
        estimate = seen.get(size)
        if estimate is None:
            seen[size] = seconds
            insort(self._sizes.setdefault(key, []), size)
            return
        error = min(seconds, _MOST_RISE * estimate) - estimate
        seen[size] = estimate + error * (_RISE if error > 0 else _FALL)

    def _forget_oldest(self) -> None:
        # Callers choose the shapes of float tensors, so the number of keys needs a bound.
        if len(self._seen) >= _MOST_KEYS:
            oldest = next(iter(self._seen))
            del self._seen[oldest], self._sizes[oldest]

    def seconds(self, key: Hashable, size: int) -> float:
        """Return what a batch of this size is likely to cost; 0 where nothing is known of its kind."""
        seen = self._seen.get(key)
        if not seen:
            return 0.0
        if size in seen:
            return seen[size]
        sizes = self._sizes[key]
        at = bisect_left(sizes, size)
        if (
            at == 0 or len(sizes) == 1
        ):  # smaller than all: no cheaper than the smallest; or the only one: in proportion
            return seen[sizes[0]] * max(1.0, size / sizes[0])
        low, high = sizes[min(at, len(sizes) - 1) - 1], sizes[min(at, len(sizes) - 1)]
        slope = max(0.0, (seen[high] - seen[low]) / (high - low))
        return seen[high] + slope * (size - high) if size > high else seen[low] + slope * (size - low)

    def backlog(self, key: Hashable, count: int, max_batch: int) -> float:
        """Return what `count` entries cost in as few batches as possible."""
        full, rest = divmod(count, max_batch)
        return full * self.seconds(key, max_batch) + (self.seconds(key, rest) if rest else 0.0)

    def largest_within(self, key: Hashable, limit_s: float, most: int) -> int:
        """Return the largest size up to `most` whose cost is within the limit, by bisection; 0 if none is."""
        if self.seconds(key, most) <= limit_s:
            return most
        low, high = 0, most  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            if self.seconds(key, middle) <= limit_s:
                low = middle
            else:
                high = middle
        return low
