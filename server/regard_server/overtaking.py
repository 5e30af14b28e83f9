"""Who has had the device lately, and so how much of it is left to those whom others overtake.

    urgent callers   ──█──█──█──█──█──█──█──█──   half of the time
    whoever waits, behind 5 s of work of his own class: done in 5 s / (1 − 0.5)

Whoever is less urgent, or has more time, is overtaken by those who come while he waits. Where that was not counted, a
third of the bulk that was let in beside interactive callers was late (tests/benchmarks/README.md). The share is learnt
by class, and by the time that callers gave, in powers of two; those who gave about as much do not overtake each other.
"""

import math
import sys
from collections.abc import Sequence
from typing import Final, TypeAlias

from regard_server.waiting import Entry

Group: TypeAlias = tuple[int, int]
"""A class, and the power of two of the time that was given."""

# For so long what happened counts.
_LATELY_S: Final = 5.0
# Who overtakes comes in bursts: so much more than on average is kept for them.
_BURSTS: Final = 1.2
# Everybody gets a little.
_MOST: Final = 0.9
_NEARLY_NOTHING: Final = 0.001
# Times of so many powers less are shorter for sure, by twice at least.
_SHORTER: Final = 2


class Overtaking:
    """Shares of the devices' time by group. Seconds on the scheduler's clock; not thread-safe.

    Attributes:
        first: the most urgent class that had any lately.
        first_s: nobody overtakes whoever is of that class and gives less time than this.
    """

    def __init__(self) -> None:
        self.first = sys.maxsize
        self.first_s = math.inf
        self._shares: dict[Group, float] = {}
        self._told = -math.inf

    def served(self, entries: Sequence[Entry], seconds: float, now: float) -> None:
        """Take note of whom a batch was for that took so many seconds."""
        kept = self._kept(now)
        self._told = now
        shares = {group: share * kept for group, share in self._shares.items() if share > _NEARLY_NOTHING}
        each = min(1.0, seconds / _LATELY_S) / sum([entry.size for entry in entries])
        for entry in entries:
            group = _group(entry)
            shares[group] = shares.get(group, 0.0) + each * entry.size
        self._shares = shares
        self.first, power = min(shares)
        self.first_s = math.ldexp(1.0, power + _SHORTER - 1)

    def share(self, priority: int, given_s: float, now: float) -> float:
        """Return which share goes to those who overtake somebody of a class who gives so much time."""
        least = (priority, _power(given_s) - _SHORTER)
        share = sum([share for group, share in self._shares.items() if group <= least])
        return min(_MOST, _BURSTS * share * self._kept(now))

    def _kept(self, now: float) -> float:
        """Return how much of the shares, as they were told last, counts still."""
        return math.exp(min(0.0, self._told - now) / _LATELY_S)  # all of it, at a time before that


def _group(entry: Entry) -> Group:
    return entry.priority, _power(entry.deadline - entry.arrived)


def _power(seconds: float) -> int:
    return math.frexp(seconds)[1]
