"""What a batch costs: l(b), the seconds that a batch of b takes, learnt for every kind of batch.

    l(b) = curve(b) · pace · margin

    curve(b)             ·   seen sizes, each with its own running mean at pace 1
      │             ·  /     between two of them: a straight line, on which a new size begins, for its first
      │      ·  /            batch is slow by nature, or may be disturbed
      │  ·/                  beyond the largest: on along the last line
      └──────────────── b

What slows a device down, a neighbour on its cores or a flood of requests, slows batches of all sizes. So the pace is
learnt from every batch, of whatever size: with estimates for each size alone, ResNet-50 under overload took 1.1 to 1.6
times what was predicted of most sizes, of which each comes up every few seconds only, and one answer in eight was late.

The margin rises fast and falls slowly (an expectile: errors above it weigh four times), because a promise that was kept
too early costs little and one that was broken costs the whole computation. One outlier can at most double an estimate.
Callers choose the shapes of tensors, and what they ask for: a kind of batch that was never seen is taken to cost what
the nearest kind that was seen does, by their likeness. Its first batch may build a network or choose kernels, so it is
an outlier, too, beside that. Where nothing like it was seen the answer is 0: nobody is refused on nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Weights of the newest batch: for the pace, which changes within seconds, and for a size's place on the curve.
_PACE = 0.2
_CURVE = 0.05
# Steps of the margin towards a sample above and below it; their ratio sets how high in the distribution it stays.
_RISE = 0.2
_FALL = 0.05
_MOST_SURPRISE = 2.0
_MOST_KEYS = 1024


class Likeness(NamedTuple):
    """What a kind of batch has in common with others.

    Attributes:
        families: names of what it belongs to, the closest first.
        weight: what a batch of it costs beside one of the same size of another kind of its families.
    """

    families: tuple[Hashable, ...]
    weight: float


def unlike(_key: Any) -> Likeness:
    """Say of every kind that it is like no other."""
    return Likeness((), 1.0)


@dataclass(slots=True)
class _Kind:
    """What is known of one kind of batch: seconds by size at pace 1, and how much it takes more now."""

    curve: dict[int, float] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)  # sorted
    pace: float = 1.0
    margin: float = 1.0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        if size not in self.curve:
            between = bool(self.sizes) and self.sizes[0] < size < self.sizes[-1]
            self.curve[size] = self._at(size) if between else seconds / self.pace
            insort(self.sizes, size)
            return
        expected = self.curve[size] * self.pace
        surprise = min(seconds / expected, _MOST_SURPRISE) if expected else 1.0
        self.margin += (surprise - self.margin) * (_RISE if surprise > self.margin else _FALL)
        self.pace *= 1.0 + _PACE * (surprise - 1.0)
        self.curve[size] *= 1.0 + _CURVE * (surprise - 1.0)

    def seconds(self, size: int) -> float:
        """Return what a batch of a size is likely to cost now."""
        return self._at(size) * self.pace * self.margin

    def _at(self, size: int) -> float:
        curve, sizes = self.curve, self.sizes
        if size in curve:
            return curve[size]
        at = bisect_left(sizes, size)
        if at == 0 or len(sizes) == 1:
            # Smaller than all: no cheaper than the smallest; or the only one: in proportion.
            return curve[sizes[0]] * max(1.0, size / sizes[0])
        low, high = sizes[min(at, len(sizes) - 1) - 1], sizes[min(at, len(sizes) - 1)]
        slope = max(0.0, (curve[high] - curve[low]) / (high - low))
        return curve[high] + slope * (size - high) if size > high else curve[low] + slope * (size - low)


class CostModel:
    """Learnt costs, by key and batch size. Seconds throughout; not thread-safe.

    Args:
        likeness: says which kinds are like a key's.
    """

    def __init__(self, likeness: Callable[[Any], Likeness] = unlike) -> None:
        self._likeness = likeness
        self._seen: dict[Hashable, _Kind] = {}
        self._newest: dict[Hashable, Hashable] = {}  # by family, the kind that was seen first most lately

    def observe(self, key: Hashable, size: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        kind = self._seen.pop(key, None)
        if kind is None:
            guess = self._guess(key, size)
            seconds = min(seconds, _MOST_SURPRISE * guess) if guess else seconds
            if len(self._seen) >= _MOST_KEYS:  # callers choose the shapes of float tensors
                del self._seen[next(iter(self._seen))]
            kind = _Kind()
            for family in self._likeness(key).families:
                self._newest[family] = key
        self._seen[key] = kind  # the newest is last
        kind.observe(size, seconds)

    def seconds(self, key: Hashable, size: int) -> float:
        """Return what a batch of this size is likely to cost; 0 where nothing is known of its kind, or the like."""
        kind = self._seen.get(key)
        return kind.seconds(size) if kind else self._guess(key, size)

    def backlog(self, key: Hashable, count: int, max_batch: int) -> float:
        """Return what `count` images cost in as few batches as possible."""
        full, rest = divmod(count, max_batch)
        return full * self.seconds(key, max_batch) + (self.seconds(key, rest) if rest else 0.0)

    def _guess(self, key: Hashable, size: int) -> float:
        """Return what a batch of a kind that was never seen is likely to cost; 0 where nothing is known."""
        families, weight = self._likeness(key)
        for family in families:
            other = self._newest.get(family)
            kind = self._seen.get(other)
            if kind is not None:
                return kind.seconds(size) * weight / self._likeness(other).weight
        return 0.0

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
