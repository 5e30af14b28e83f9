"""When the least urgent class that waits goes first: once it was passed over for nine times as long as it takes.

    urgent ██ ███ ██ ███ █ ██ ███ … 9 · l(full) ─→ bulk ███ ─→ urgent ██ ███ …

Time is counted, not batches: how many come within a time nobody can foresee. Those of callers at the edge of their
deadlines are small, and where batches were counted the turn came sooner, by as many, than admission had reckoned:
beside bulk and under overload, up to one in eight of the urgent callers who had been let in was late. A heavy model's
bulk, besides, took nine tenths of the device from a light model's urgent callers.
"""

from typing import Final

# One part of the time in so many is the least urgent class's, where more than one class waits.
FAIR_SHARE: Final = 10


class Turns:
    """For how long the least urgent class has been passed over, whether or not anybody of it waited.

    Attributes:
        priority: that class, as it was when more than one waited.
        passed_s: what the batches cost that went first since its last one.
        interval_s: what they have to cost until it has its turn.
        taken_s: what its last turn cost; 0 once nobody was there for the next.
    """

    def __init__(self) -> None:
        self.priority = 1
        self.passed_s = self.interval_s = self.taken_s = 0.0
        self._passed = 0  # batches; they count where nobody knows what any costs

    def is_due(self, priority: int, full_s: float) -> bool:
        """Tell whether a class goes first now.

        Args:
            priority: the least urgent one that waits, beside others.
            full_s: what a full batch takes, of it or of the most urgent one, whichever takes longer.
        """
        self.priority = priority
        self.interval_s = (FAIR_SHARE - 1) * full_s
        return self.passed_s >= self.interval_s if full_s else self._passed >= FAIR_SHARE - 1

    def went(self, priority: int, seconds: float) -> None:
        """Take note of a batch, by the class of the first in it, and what it is to cost."""
        if priority < self.priority:
            self.passed_s += seconds
            self._passed += 1
            if self.passed_s > self.interval_s:
                self.taken_s = 0.0
            return
        # What was too much before a turn counts for the next one, up to a batch.
        over_s = self.passed_s - self.interval_s
        self.taken_s = seconds if 0.0 < self.interval_s <= self.passed_s else 0.0
        self.passed_s = max(0.0, min(over_s, self.interval_s / (FAIR_SHARE - 1)))
        self._passed = 0
