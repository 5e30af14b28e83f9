"""How often, and how many at a time, the page's form may ask the network: it must never crowd out real callers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TooFastError(Exception):
    """There was no turn to be had; `retry_after_s` says when to try again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many photographs at a time; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class Pace:
    """A bucket of turns that fills steadily, and a bound on turns that are being taken; safe from any thread.

    Args:
        rate: turns a second in the long run.
        burst: turns that may be saved up.
        at_once: turns that may be taken at a time.
        clock: monotonic seconds.
    """

    def __init__(self, *, rate: float, burst: int, at_once: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._at_once = at_once
        self._clock = clock
        self._guard = threading.Lock()
        self._saved = float(burst)
        self._filled_s = clock()
        self._taken = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold a turn.

        Raises:
            TooFastError: there is none now.
        """
        with self._guard:
            now_s = self._clock()
            self._saved = min(self._burst, self._saved + (now_s - self._filled_s) * self._rate)
            self._filled_s = now_s
            if self._taken >= self._at_once:
                raise TooFastError(1.0)
            if self._saved < 1:
                raise TooFastError(max(1.0, (1 - self._saved) / self._rate))
            self._saved -= 1
            self._taken += 1
        try:
            yield
        finally:
            with self._guard:
                self._taken -= 1
