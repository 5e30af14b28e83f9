"""Whether an idle device should wait a little for company, learnt from what came before.

Callers in a closed loop send again as soon as they are answered. A device that takes the first of them at once
runs a small batch while the others arrive, and goes on in small batches for ever.

    answers out                                    device free, n wait
        │  ·  ·· · ·   those who come back              │  n + m expected
        ├──────────────┤ turnaround                     ├────────┤ hold
        ├────────────────────┤ max_delay

So after every batch it is learnt which share of its callers comes back within `max_delay`, and how long that takes.
A device that is free holds for those who are still expected, m, only if most do come back, and if all are done sooner
by it than in two batches:

    rest of the turnaround + l(n + m)  <  l(n) + l(m)

and never past `max_delay`, a fraction of l(n), or the slack of the earliest deadline: where they would not be back by
then, it does not hold at all. For a caller alone m is 0 once he is back, so he never waits; nor does anybody in an open
loop, where arrivals have nothing to do with answers.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from regard_server.cost import CostModel

# Weight of the newest sample in the running means.
_NEW = 0.2
# How much longer than the mean turnaround is worth waiting, as stragglers vary.
_PATIENCE = 1.5
# The share of l(n) that may be waited.
_FRACTION = 0.5
# Callers are in a closed loop if at least this share of them comes back.
_CLOSED_LOOP = 0.5
_MOST_KEYS = 1024


@dataclass(slots=True)
class _Returns:
    """Who came back after the last batch of a kind, and the running means over batches."""

    delivered: float = 0.0
    size: int = 0
    count: int = 0
    last: float = 0.0
    mean_share: float = 0.0
    mean_turnaround_s: float = 0.0

    def expected(self) -> int:
        """Return how many are still to come back."""
        if self.mean_share < _CLOSED_LOOP:
            return 0
        return round(self.mean_share * self.size) - self.count


class Hold:
    """The learnt hold. Times are seconds on the scheduler's clock.

    Args:
        max_delay_s: the longest hold; 0 switches it off.
        costs: l(b).
    """

    def __init__(self, max_delay_s: float, costs: CostModel) -> None:
        self._max_delay_s = max_delay_s
        self._costs = costs
        self._returns: dict[Hashable, _Returns] = {}

    def arrived(self, key: Hashable, now: float, count: int = 1) -> None:
        """Learn from an arrival of so many."""
        returns = self._returns.get(key)
        if returns and now - returns.delivered <= self._max_delay_s:
            returns.count += count
            returns.last = now

    def delivered(self, key: Hashable, size: int, now: float) -> None:
        """Learn who came back from the batch before this one, of so many, whose answers go out now."""
        returns = self._returns.pop(key, None)
        if returns is None:
            if len(self._returns) >= _MOST_KEYS:  # callers choose the shapes of float tensors
                del self._returns[next(iter(self._returns))]
            returns = _Returns()
        if returns.size:
            share = min(1.0, returns.count / returns.size)
            returns.mean_share += _NEW * (share - returns.mean_share)
            if returns.count:
                turnaround_s = returns.last - returns.delivered
                returns.mean_turnaround_s += _NEW * (turnaround_s - returns.mean_turnaround_s)
        returns.delivered, returns.size, returns.count = now, size, 0
        self._returns[key] = returns  # the newest is last

    def until(self, key: Hashable, waiting: int, *, now: float, since: float, deadline: float) -> float:
        """Return until when to hold, at most; a time that has passed means: go.

        Args:
            key: the kind of batch.
            waiting: how many wait for it now.
            now: the time.
            since: when the device could have taken them.
            deadline: the earliest among them.
        """
        returns = self._returns.get(key)
        expected = returns.expected() if returns else 0
        if returns is None or expected < 1:
            return now
        due = returns.delivered + _PATIENCE * returns.mean_turnaround_s
        alone_s = self._costs.seconds(key, waiting)
        together_s = self._costs.seconds(key, waiting + expected)
        if max(0.0, due - now) + together_s >= alone_s + self._costs.seconds(key, expected):
            return now
        longest_s = min(self._max_delay_s, _FRACTION * alone_s)
        last = min(since + longest_s, deadline - together_s)
        return min(due, last) if returns.delivered + returns.mean_turnaround_s <= last else now
