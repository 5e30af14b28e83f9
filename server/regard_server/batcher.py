"""Batch: entries from many callers become batches of one device.

    event loop                    lock                     device thread
    submit(entry) ─────────→  ┌───────────┐  ←───────── serve(run): wait until somebody waits,
    discard(entry) ────────→  │ Scheduler │              form a batch, run it, deliver, again
                              └───────────┘
    deliver(outcomes) ←───────────────────────────────── once for a whole batch

The device thread asks for a batch when it is free, never earlier (late binding), and one caller alone never
waits: there is no timer. The batcher knows neither the wire nor torch; it is handed `run`, `deliver` and a
clock.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from regard_server.errors import ComputationError, DeadlineExpiredError, UnavailableError
from regard_server.scheduler import Batch, Entry, Scheduler

Clock = Callable[[], float]
Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry. `value` is its result, or the exception that its caller gets."""

    entry: Entry
    value: Any
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 0


Deliver = Callable[[Sequence[Outcome]], None]


class Batcher:
    """The meeting point of callers and one device thread; every method is thread-safe.

    Args:
        scheduler: who goes next; guarded by this class's lock from now on.
        deliver: called in the device thread (and by `close`) with the outcomes of a batch; must not block.
        clock: monotonic seconds, the one that deadlines are given on.
        logger: where a failed run is logged.
    """

    def __init__(
        self, scheduler: Scheduler, deliver: Deliver, *, clock: Clock, logger: logging.Logger
    ) -> None:
        self._scheduler = scheduler
        self._deliver = deliver
        self._clock = clock
        self._logger = logger
        self._changed = threading.Condition()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many entries wait for the device."""
        return len(self._scheduler)

    def submit(self, entry: Entry) -> None:
        """Let an entry wait for the device.

        Raises:
            UnavailableError: the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            self._scheduler.add(entry)
            self._changed.notify()

    def discard(self, entry: Entry) -> bool:
        """Forget an entry whose caller left; return whether it was still waiting."""
        with self._changed:
            return self._scheduler.discard(entry)

    def close(self) -> None:
        """Take no more; what waits is still served, then `serve` returns."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def serve(self, run: Run) -> None:
        """Form and run batches in the calling thread until `close`.

        `run` gets a key and the payloads of a batch and returns one value for each, which may be an exception for
        a single entry. If it raises, that batch fails and the next one is formed.
        """
        while (batch := self._take()) is not None:
            dispatched = self._clock()
            if batch.late:
                self._deliver([_late(entry, dispatched) for entry in batch.late])
            if batch.entries:
                self._deliver(self._run(run, batch, dispatched))

    def _take(self) -> Batch | None:
        with self._changed:
            while not (batch := self._scheduler.next_batch(self._clock())):
                if self._closed:
                    return None
                self._changed.wait()
            return batch

    def _run(self, run: Run, batch: Batch, dispatched: float) -> list[Outcome]:
        size = len(batch.entries)
        values: Sequence[Any]
        try:
            values = run(batch.key, [entry.payload for entry in batch.entries])
        except Exception:
            self._logger.exception("a batch of %d failed (%s)", size, batch.key)
            values = [ComputationError("the network failed on this batch; the server's log says why")] * size
        elapsed = self._clock() - dispatched
        for entry in batch.entries:
            entry.payload = None
        return [
            Outcome(entry, value, dispatched - entry.arrived, elapsed, size)
            for entry, value in zip(batch.entries, values, strict=True)
        ]


def _late(entry: Entry, now: float) -> Outcome:
    entry.payload = None
    waited = now - entry.arrived
    return Outcome(
        entry, DeadlineExpiredError(f"the deadline passed after {waited:.3f} s in the queue"), waited
    )
