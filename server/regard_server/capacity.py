"""How large batches may be: the setting, and less of it where a device's memory did not hold that many.

max_batch ─ out of memory at n ─→ n / 2 ─ many batches went well ─→ a quarter more ─ … ─→ max_batch
"""

import threading
from collections.abc import Hashable

# So many full batches in a row earn a larger one: memory may have been short for a while only.
_TRIED = 100
_MOST_KEYS = 1024


class BatchCapacity:
    """The largest batch of every kind. Thread-safe: devices lower it, the scheduler asks.

    Args:
        max_batch: what is allowed where memory was never short.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._lowered: dict[Hashable, int] = {}
        self._full: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def __call__(self, key: Hashable) -> int:
        """Return the largest batch of a kind."""
        return self._lowered.get(key, self._max_batch)

    def exhausted(self, key: Hashable, size: int) -> None:
        """Take note that a batch of this size did not fit."""
        with self._lock:
            if len(self._lowered) >= _MOST_KEYS:  # callers choose the shapes of float tensors
                self._lowered.pop(next(iter(self._lowered)))
            self._lowered[key] = max(1, min(self(key), size // 2))
            self._full[key] = 0

    def fitted(self, key: Hashable, size: int) -> None:
        """Take note that a batch of this size fitted."""
        if key not in self._lowered or size < self(key):
            return
        with self._lock:
            self._full[key] = self._full.get(key, 0) + 1
            if self._full[key] < _TRIED:
                return
            self._full[key] = 0
            self._lowered[key] = self(key) + max(1, self(key) // 4)
            if self(key) >= self._max_batch:
                del self._lowered[key], self._full[key]
