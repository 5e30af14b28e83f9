"""Batching policies in a few lines each, for `simulation.py`: ours is the server's own scheduler.

A policy sees arrivals and a device that becomes free. What the others do is written down from their documentation
and source as we understand them, with the defaults that a careful operator would choose for this workload:

- fifo window: the textbook: a batch goes when it is full or when its first item has waited for the window.
- Triton: dynamic batching with `max_queue_delay`; the queue is unbounded and requests without a timeout policy are
  run however late they are.
- TF Serving: batches are closed by size or `batch_timeout` while the device is busy, at most
  `max_enqueued_batches` of them; beyond that it answers UNAVAILABLE.
- TEI: no window: whatever waits goes as soon as the device is free, those who left are skipped; a bounded queue.
- Mosec: the window opens at the first item after the device became free; those who left are skipped.
- BentoML: a window learnt from arrival times and a linear cost; refuses when the predicted wait passes `max_latency`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from regard_server.cost import CostModel
from regard_server.hold import Hold
from regard_server.scheduler import Batch, Scheduler, Wait
from regard_server.waiting import Entry


@dataclass(eq=False)
class Item:
    """One request."""

    arrived: float
    deadline: float
    caller: int = -1
    entry: Entry | None = None
    settled: bool = False
    answered: Callable[[float], None] = lambda _: None


Decision = tuple[list[Item], list[Item]] | float | None
"""Items to run and items dropped; or a time until which to wait; or None: nobody waits."""


class Regard:
    """The server's scheduler itself."""

    name = "regard"

    def __init__(self, most: int, window: float, costs: dict[int, float]) -> None:
        self._costs = CostModel()
        for size, seconds in costs.items():
            self._costs.observe("k", size, seconds)
        self._scheduler = Scheduler(lambda _: most, self._costs, Hold(window, self._costs))
        self._batch: Batch | None = None

    def arrive(self, item: Item, now: float) -> bool:
        if self._scheduler.reserve("k", 1, ready=now, deadline=item.deadline, now=now):
            return False
        item.entry = Entry("k", item, None, item.deadline, arrived=now, promised=True)
        self._scheduler.add(item.entry, now)
        return True

    def leave(self, item: Item) -> None:
        self._scheduler.discard(item.entry)

    def free(self, now: float) -> Decision:
        decision = self._scheduler.decide(now)
        if isinstance(decision, Wait):
            return decision.until
        if decision is None:
            return None
        self._batch = decision
        return [entry.payload for entry in decision.entries], [entry.payload for entry in decision.late]

    def done(self, now: float) -> None:
        self._scheduler.finished(self._batch, now)


class FifoWindow:
    """A batch goes when it is full, or when its first item has waited for the window."""

    name = "fifo window"
    skips_left = False
    queue_limit = 1 << 60

    def __init__(self, most: int, window: float, costs: dict[int, float]) -> None:
        self._most = most
        self._window = window
        self._queue: deque[Item] = deque()

    def arrive(self, item: Item, now: float) -> bool:
        if len(self._queue) >= self.queue_limit:
            return False
        self._queue.append(item)
        return True

    def leave(self, item: Item) -> None:
        pass  # seen in `free`, where it is seen at all

    def opened(self, now: float) -> float:
        return self._queue[0].arrived

    def free(self, now: float) -> Decision:
        while self._queue and self.skips_left and self._queue[0].settled:
            self._queue.popleft()
        if not self._queue:
            return None
        until = self.opened(now) + self._window
        if len(self._queue) < self._most and until > now:
            return until
        items: list[Item] = []
        while self._queue and len(items) < self._most:
            item = self._queue.popleft()
            if not (self.skips_left and item.settled):
                items.append(item)
        return (items, []) if items else None

    def done(self, now: float) -> None:
        pass


class Triton(FifoWindow):
    """As the window; the queue knows no bound and no deadline."""

    name = "triton"


class TfServing(FifoWindow):
    """As the window; the queue holds so many batches."""

    name = "tf serving"

    def __init__(self, most: int, window: float, costs: dict[int, float]) -> None:
        super().__init__(most, window, costs)
        self.queue_limit = 4 * most


class Tei(FifoWindow):
    """No window, those who left are skipped, a bounded queue."""

    name = "tei"
    skips_left = True
    queue_limit = 512

    def opened(self, now: float) -> float:
        return now - self._window


class Mosec(FifoWindow):
    """The window opens when the device has become free and somebody waits."""

    name = "mosec"
    skips_left = True

    def __init__(self, most: int, window: float, costs: dict[int, float]) -> None:
        super().__init__(most, window, costs)
        self._freed = 0.0

    def opened(self, now: float) -> float:
        return max(self._freed, self._queue[0].arrived)

    def done(self, now: float) -> None:
        self._freed = now


class BentoMl(FifoWindow):
    """A window that is worth its wait by a linear cost; refuses what is predicted to pass the latency objective."""

    name = "bentoml"
    max_latency = 0.25

    def __init__(self, most: int, window: float, costs: dict[int, float]) -> None:
        super().__init__(most, window, costs)
        low, high = min(costs), max(costs)
        self._slope = (costs[high] - costs[low]) / (high - low)
        self._fixed = costs[low] - self._slope * low
        self._gap, self._last = window, 0.0

    def arrive(self, item: Item, now: float) -> bool:
        self._gap += 0.1 * (min(now - self._last, 0.05) - self._gap)
        self._last = now
        batches = len(self._queue) // self._most + 1
        if batches * (self._fixed + self._slope * min(self._most, len(self._queue) + 1)) > self.max_latency:
            return False
        return super().arrive(item, now)

    def opened(self, now: float) -> float:
        worth = len(self._queue) * (self._gap + self._slope) < self._fixed
        return self._queue[0].arrived if worth else now - self._window


POLICIES = (Regard, FifoWindow, Triton, TfServing, Tei, Mosec, BentoMl)
