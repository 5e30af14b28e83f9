"""The order of what waits: pure data, no threads, no clock of its own.

Entries wait in buckets, one for each kind of batch (model, input shape, cost class), because only entries of
a kind can ride together. A bucket is a heap: priority class first, then the earliest deadline, then arrival.

    reserve ─→ add ─→ bucket[key] ─┐
    reserve ─→ add ─→ bucket[key] ─┼─→ decide(now): a Batch, a Hold until some time, or nothing
    reserve ─→ add ─→ bucket[key] ─┘        finished(batch, now): what it cost is learnt
    discard(entry): the caller left; gone before the next batch is formed

- Batches are bound late: nobody asks for one before a device is free, so none is frozen small while the device is
  busy (Clockwork, Symphony). An idle device may hold a little for company, see `hold.py`.
- The most urgent head decides which bucket goes. Its batch is the largest whose predicted finish meets the earliest
  deadline in it (Nexus, Clipper); a head that cannot be met, or only by a wasteful batch once too often, is dropped,
  not allowed to shrink everybody's.
- Admission asks the same cost model: whoever would finish late is refused before anything is spent on him, see
  `forecast.py`.
- A tenth of the time is the least urgent class's, so that nobody starves however many are urgent, see `turns.py`.
"""

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from regard_server.cost import CostModel
from regard_server.forecast import Forecast
from regard_server.hold import Hold
from regard_server.turns import Turns
from regard_server.waiting import Entry, Queue

# A batch that costs so many times more an item than a full one wastes the device. It is allowed for a deadline's sake
# where enough others did not: each earns this much, and one costs 1.
_WASTEFUL = 1.05
_PATIENCE_EARNED = 0.25
_MOST_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one key that ride together, and those that could not be met any more when it was formed."""

    key: Hashable
    entries: list[Entry]
    late: list[Entry]
    size: int  # images in its entries
    dispatched: float
    device: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody waits, but it is worth waiting for company until this time, at most."""

    until: float


class Scheduler:
    """Who goes next, and who need not wait at all. Seconds on the caller's monotonic clock; not thread-safe.

    Args:
        max_batch: the largest batch of a key.
        costs: l(b), learnt by `finished` and asked by everything else.
        hold: when an idle device waits for company.
        devices: how many devices take batches from here.
    """

    def __init__(
        self, max_batch: Callable[[Hashable], int], costs: CostModel, hold: Hold, *, devices: int = 1
    ) -> None:
        self._max_batch = max_batch
        self._costs = costs
        self._hold = hold
        self._devices = devices
        self._everybody = Queue()
        self._buckets: dict[Hashable, Queue] = {}
        self._turns = Turns()
        # Of who waits, and who was promised room.
        self._forecast = Forecast(max_batch, costs, devices, self._turns)
        self._running: dict[int, float] = {}  # id of a batch: when it should finish
        self._freed: dict[int, float] = {}  # number of a device: when its last batch finished
        self.busy_s: dict[int, float] = {}  # number of a device: how long batches have run on it
        self._numbers = itertools.count()
        self._patience = _MOST_PATIENCE

    def __len__(self) -> int:
        return self._everybody.waiting

    def reserve(
        self, key: Hashable, count: int, *, ready: float, deadline: float, now: float, priority: int = 0
    ) -> float:
        """Promise room to `count` images that will be added; return how late they would be.

        Nothing is promised where that is more than 0: they would finish so many seconds past their deadline.

        Args:
            key: the kind of batch they will ride in.
            count: how many.
            ready: when they can be added at the earliest.
            deadline: theirs.
            now: the time.
            priority: their class.
        """
        late_s = self._forecast.late(
            key,
            count,
            ready=ready,
            deadline=deadline,
            priority=priority,
            now=now,
            free=self._free_at(now),
        )
        # Alone in the server one may always try: an estimate that has become too high mends itself only so.
        if late_s > 0 and (self._running or self._forecast):
            return late_s
        self._forecast.change(key, deadline, priority, count)
        return 0.0

    def foresee(self, deadline: float, now: float) -> float:
        """Return how late one more image would be at least, of whichever kind that others wait in; 0 if in time."""
        return self._forecast.foresee(deadline, now, free=self._free_at(now))

    def release(self, key: Hashable, count: int = 1, *, deadline: float, priority: int = 0) -> None:
        """Take a promise back: the images will not be added."""
        self._forecast.change(key, deadline, priority, -count)

    def add(self, entry: Entry, now: float) -> None:
        """Let an entry wait."""
        if not entry.promised:
            self._forecast.change(entry.key, entry.deadline, entry.priority, entry.size)
        entry.waiting = True
        number = next(self._numbers)
        self._everybody.push(entry, number)
        bucket = self._buckets.get(entry.key)
        if bucket is None:
            bucket = self._buckets[entry.key] = Queue()
        bucket.push(entry, number)
        self._hold.arrived(entry.key, now, entry.size)

    def discard(self, entry: Entry) -> bool:
        """Take an entry out; return whether it was still waiting.

        It stays in its heap as an empty shell until it comes up, which costs nothing and keeps this O(1).
        """
        if not entry.waiting:
            return False
        self._leave(entry)
        if not self._buckets[entry.key].waiting:
            del self._buckets[entry.key]
        entry.payload = entry.owner = None
        return True

    def decide(self, now: float, *, device: int = 0, flush: bool = False) -> Batch | Wait | None:
        """Say what a device that is free, or has a lane free, does now.

        Args:
            now: the time.
            device: its number.
            flush: whether to go without holding, because nobody else will come.
        """
        heads = self._heads()
        if not heads:
            return None
        contrary = len(heads) > 1 and self._turns.is_due(heads[-1].priority, self._full_s(heads))
        first = heads[-1 if contrary else 0]
        key = first.key
        bucket = self._buckets[key]
        if bucket.since is None:
            bucket.since = now
        alone = bucket.waiting == self._everybody.waiting  # else there is work for the time of waiting
        if alone and not flush and bucket.waiting < self._max_batch(key):
            until = self._hold.until(
                key, bucket.waiting, now=now, since=bucket.since, deadline=first.deadline
            )
            if until > now:
                return Wait(until)
        return self._form(key, bucket, now, device, contrary=contrary)

    def finished(self, batch: Batch, now: float) -> None:
        """Learn what a batch cost, and that its device is free."""
        self._running.pop(id(batch), None)
        if batch.entries:
            # A batch in a device's second lane begins when the one before it has finished.
            began = max(batch.dispatched, self._freed.get(batch.device, batch.dispatched))
            self._freed[batch.device] = now
            self.busy_s[batch.device] = self.busy_s.get(batch.device, 0.0) + now - began
            self.learn(batch.key, batch.size, now - began)
            self._forecast.served(batch.entries, now - began, now)
            self._hold.delivered(batch.key, batch.size, now)

    def learn(self, key: Hashable, size: int, seconds: float) -> None:
        """Take note of what a batch cost that was run elsewhere."""
        self._costs.observe(key, size, seconds)
        self._forecast.forget(key)

    def _heads(self) -> list[Entry]:
        """Return the first of every class that waits, most urgent first."""
        everybody = self._everybody
        return [first for each in everybody.classes() if (first := everybody.head(each))]

    def _full_s(self, heads: list[Entry]) -> float:
        """Return what a full batch takes, of the most urgent or the least urgent one, whichever takes longer."""
        ends = (heads[0].key, heads[-1].key)
        return max([self._costs.seconds(key, self._max_batch(key)) for key in ends])

    def _form(self, key: Hashable, bucket: Queue, now: float, device: int, *, contrary: bool) -> Batch:
        """Take the largest batch whose predicted finish meets the earliest deadline in it."""
        entries: list[Entry] = []
        late: list[Entry] = []
        size = 0
        most = full = self._full(key, bucket)
        classes = bucket.classes()
        for priority in classes[::-1] if contrary else classes:
            while size < most and (entry := bucket.head(priority)):
                fits = self._fits(entry, now, full)
                if fits:
                    most = min(most, fits)
                    if size >= most:
                        break
                    taken = self._take(entry, most - size)
                    entries.append(taken)
                    size += taken.size
                    continue
                late.append(self._take(entry, self._lost(entry, now)))
                if not entries:  # whoever was dropped has made room
                    most = full = self._full(key, bucket)
        bucket.since = None
        if not bucket.waiting:
            del self._buckets[key]
        batch = Batch(key, entries, late, size, now, device)
        if entries:
            cut_short = self._is_wasteful(key, size, full)
            self._patience += -1.0 if cut_short else _PATIENCE_EARNED
            self._patience = max(0.0, min(self._patience, _MOST_PATIENCE))
            seconds = self._costs.seconds(key, size)
            self._running[id(batch)] = self._free_at(now) + seconds
            self._turns.went(entries[0].priority, seconds)
        return batch

    def _take(self, entry: Entry, most: int) -> Entry:
        """Take an entry out, or as many of its images as a batch has room for."""
        if entry.size <= most:
            self._leave(entry)
            return entry
        self._forecast.change(entry.key, entry.deadline, entry.priority, -most)
        self._everybody.took(most)
        self._buckets[entry.key].took(most)
        return entry.divide(most)

    def _free_at(self, now: float) -> float:
        """Return when everything that runs should have finished, if every device is busy."""
        return max([now, *self._running.values()]) if len(self._running) >= self._devices else now

    def _full(self, key: Hashable, bucket: Queue) -> int:
        return min(self._max_batch(key), bucket.waiting)

    def _fits(self, entry: Entry, now: float, full: int) -> int:
        """Return the largest batch that an entry may ride in; 0 if it has to be dropped.

        One that nobody else waits beside may always try, unless it is late already: nobody pays for it, and an
        estimate that has become too high mends itself only so. One that would cut the batch short, and waste the
        device for those behind it, may do so now and then, but not batch after batch: under overload that would end
        in batches of two or three for everybody.
        """
        if entry.deadline <= now:
            return 0
        if full == 1 and len(self) == 1:
            return 1
        fits = self._costs.largest_within(entry.key, entry.deadline - now, full)
        if fits < full and self._patience < 1.0 and self._is_wasteful(entry.key, fits, full):
            return 0
        return fits

    def _lost(self, entry: Entry, now: float) -> int:
        """Return how many images of an entry that has to be dropped are: of those too many for it, fewer may fit."""
        if entry.deadline <= now:
            return entry.size
        alone = self._costs.largest_within(entry.key, entry.deadline - now, 1)
        return 1 if alone else max(1, entry.size - 1)  # the last one may be nobody's cost, and try

    def _is_wasteful(self, key: Hashable, size: int, full: int) -> bool:
        """Tell whether a batch of this size takes much longer for an item than a full one."""
        if size >= full or not size:
            return size < full
        return self._costs.seconds(key, size) / size > _WASTEFUL * self._costs.seconds(key, full) / full

    def _leave(self, entry: Entry) -> None:
        entry.waiting = False
        self._forecast.change(entry.key, entry.deadline, entry.priority, -entry.size)
        self._everybody.left(entry.size)
        self._buckets[entry.key].left(entry.size)
