"""Batch: entries from many callers become batches of one device.

    event loop                    lock                     device thread
    submit(entry) ─────────→  ┌───────────┐  ←───────── serve(run): wait until somebody waits,
    discard(entry) ────────→  │ Scheduler │              form a batch, run it, deliver, again
                              └───────────┘
    deliver(outcomes) ←───────────────────────────────── once for a whole batch

A device thread asks for a batch when it is free, never earlier (late binding), and one caller alone never waits.
Several device threads may serve from one batcher. The batcher knows neither the wire nor torch; it is handed
`run`, `deliver` and a clock, and the scheduler decides.

Should several front-end processes share one device's process, they would meet it here. What they ask is `reserve`,
`foresee`, `release`, `submit` and `discard`; what an entry carries is bytes and names (`Work`), and its `owner`, by
which the answer finds its way back, is looked at by nobody but who submitted it.
"""

import logging
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from regard_server.errors import (
    ComputationError,
    DeadlineExpiredError,
    OverloadedError,
    UnavailableError,
)
from regard_server.scheduler import Batch, Scheduler
from regard_server.waiting import Entry

Clock = Callable[[], float]
Run = Callable[[Any, Sequence[Any]], Sequence[Any]]

# For so long after a refusal, others are likely.
_LATELY_S = 1.0


class Outcome(NamedTuple):
    """What became of one entry. `value` is its result, or the exception that its caller gets.

    `first` and `size` say of which images of those that were submitted together, and `batch_size` counts images.
    """

    entry: Entry
    value: Any
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 0

    @property
    def first(self) -> int:
        """How many images of the same submission come before these."""
        return self.entry.first

    @property
    def size(self) -> int:
        """How many images these are."""
        return self.entry.size


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
        # A coroutine that is collected as garbage while this is held may give its room back.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._refused = -math.inf  # when somebody was, last

    @property
    def refusing(self) -> bool:
        """Whether anybody was refused lately."""
        return self._clock() - self._refused < _LATELY_S

    @property
    def waiting(self) -> int:
        """How many images wait for the device."""
        return len(self._scheduler)

    def busy_s(self, device: int) -> float:
        """Return for how many seconds a device has run batches so far."""
        return self._scheduler.busy_s.get(device, 0.0)

    def reserve(self, key: Hashable, count: int, *, ready: float, deadline: float, priority: int = 0) -> None:
        """Promise room to images that are still being decoded; `submit` redeems it, `release` gives it up.

        Raises:
            OverloadedError: they would finish past their deadline; says when it is worth trying again.
        """
        with self._lock:
            late_s = self._scheduler.reserve(
                key, count, ready=ready, deadline=deadline, now=self._clock(), priority=priority
            )
        if late_s:
            raise self._overloaded(late_s)

    def foresee(self, deadline: float) -> None:
        """Let somebody come in whose images are not known yet.

        Raises:
            OverloadedError: one image more of any kind that waits would finish past his deadline; says when it is
                worth trying again.
        """
        with self._lock:
            late_s = self._scheduler.foresee(deadline, self._clock())
        if late_s:
            raise self._overloaded(late_s)

    def release(self, key: Hashable, count: int, *, deadline: float, priority: int = 0) -> None:
        """Take a promise back: so many images will not be submitted."""
        with self._lock:
            self._scheduler.release(key, count, deadline=deadline, priority=priority)

    def learn(self, key: Hashable, size: int, seconds: float) -> None:
        """Take note of what a batch cost that was run elsewhere: at warm-up."""
        with self._lock:
            self._scheduler.learn(key, size, seconds)

    def submit(self, entries: Sequence[Entry]) -> None:
        """Let entries, whose room was reserved, wait for a device.

        Raises:
            UnavailableError: the batcher was closed.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            now = self._clock()
            for entry in entries:
                self._scheduler.add(entry, now)
            # A device for every batch that there may be, not only for every entry.
            self._changed.notify(sum([entry.size for entry in entries]))

    def discard(self, entry: Entry) -> bool:
        """Forget an entry whose caller left; return whether it was still waiting."""
        with self._lock:
            return self._scheduler.discard(entry)

    def close(self) -> None:
        """Take no more; what waits is still served, then `serve` returns."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Take no more, and answer whoever waits that nobody will serve him: no device is left."""
        self.close()
        while (batch := self._take()) is not None:
            self._deliver([_unserved(entry) for entry in (*batch.late, *batch.entries)])

    def serve(self, run: Run, device: int = 0) -> None:
        """Form and run batches in the calling thread until `close`; several threads may serve, of one device or more.

        `run` gets a key and the payloads of a batch and returns one value for each, which may be an exception for
        a single entry; of an entry of several images the value says what became of each. If it raises an `Exception`,
        that batch fails and the next one is formed; whatever else ends this method is answered with
        `UnavailableError` first.
        """
        while (batch := self._take(device)) is not None:
            if batch.late:
                self._deliver([_late(entry, batch.dispatched) for entry in batch.late])
            if batch.entries:
                try:
                    outcomes = self._run(run, batch)
                except BaseException:
                    self._deliver([_unserved(entry) for entry in batch.entries])
                    raise
                self._deliver(outcomes)

    def _take(self, device: int = 0) -> Batch | None:
        """Wait for a batch; None when the batcher is closed and empty."""
        with self._changed:
            while True:
                now = self._clock()
                decision = self._scheduler.decide(now, device=device, flush=self._closed)
                if isinstance(decision, Batch):
                    return decision
                if decision is None and self._closed:
                    return None
                self._changed.wait(None if decision is None else decision.until - now)

    def _run(self, run: Run, batch: Batch) -> list[Outcome]:
        size = batch.size
        values: Sequence[Any]
        try:
            values = run(batch.key, [entry.payload for entry in batch.entries])
        except Exception:
            self._logger.exception("a batch of %d failed (%s)", size, batch.key)
            failed = ComputationError("the network failed on this batch; the server's log says why")
            values = [failed] * len(batch.entries)
        finished = self._clock()
        with self._lock:
            self._scheduler.finished(batch, finished)
        for entry in batch.entries:
            entry.payload = None
        return [
            Outcome(entry, value, batch.dispatched - entry.arrived, finished - batch.dispatched, size)
            for entry, value in zip(batch.entries, values, strict=True)
        ]

    def _overloaded(self, late_s: float) -> OverloadedError:
        self._refused = self._clock()
        return OverloadedError(
            f"the answer would come {late_s:.3f} s after the deadline. Try again, or add replicas",
            retry_after_s=late_s,
        )


def _late(entry: Entry, now: float) -> Outcome:
    entry.payload = None
    waited = now - entry.arrived
    return Outcome(
        entry, DeadlineExpiredError(f"the deadline passed after {waited:.3f} s in the queue"), waited
    )


def _unserved(entry: Entry) -> Outcome:
    entry.payload = None
    return Outcome(entry, UnavailableError("the device failed; the server's log says why"))
