"""Batching policies in a few lines each, for `simulation.py`: ours is the server's own scheduler.

A policy sees arrivals and a device that becomes free. What the others do was read in their source, which is named at
each class, and is told here in other words; batches are of the same size for all. Each comes twice: out of the box, and
"tuned" by an operator who knows deadlines and costs. He has set every limit and timeout that there is, all from one
number: for how long somebody may wait. `simulation.py` tries ten of these and takes the best for every workload.

    admit ─→ (decoding) ─→ arrive ─→ free: items to run and items dropped ─→ done
                 leave: the caller's deadline passed, or he went away; who looks at `settled` sees it

None of the others knows of more than one model in a queue: they have a queue for each, and these take turns at the
device (TF Serving's SharedBatchScheduler does so; with the others it is what the device makes of it).
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from regard_server.cost import CostModel
from regard_server.hold import Hold
from regard_server.scheduler import Batch, Scheduler, Wait
from regard_server.waiting import Entry

Costs = Mapping[int, float]
"""Seconds by batch size, of one model."""

# The longest that ours holds, the server's default, and the window of the textbook.
WINDOW_S = 0.004


@dataclass(eq=False)
class Item:
    """One request."""

    sent: float
    deadline: float
    model: str = "small"
    priority: int = 0
    kind: str = "all"
    arrived: float = 0.0
    entry: Entry | None = None
    settled: bool = False
    answered: Callable[[float], None] = lambda _: None


@dataclass(frozen=True)
class Decision:
    """What a free device does: run some, or wait until a time at most. Whoever is dropped hears of it now."""

    items: list[Item] = field(default_factory=list)
    dropped: list[Item] = field(default_factory=list)
    until: float | None = None


class Regard:
    """The server's scheduler itself."""

    def __init__(self, most: int, costs: Mapping[str, Costs]) -> None:
        self._costs = CostModel()
        for model, seconds_by_size in costs.items():
            for size, seconds in seconds_by_size.items():
                self._costs.observe(model, size, seconds)
        self._scheduler = Scheduler(lambda _: most, self._costs, Hold(WINDOW_S, self._costs))
        self._batch: Batch | None = None

    def admit(self, item: Item, ready: float, now: float) -> bool:
        return not self._scheduler.reserve(
            item.model, 1, ready=ready, deadline=item.deadline, now=now, priority=item.priority
        )

    def arrive(self, item: Item, now: float) -> Collection[Item]:
        item.entry = Entry(item.model, item, None, item.deadline, item.priority, arrived=now, promised=True)
        self._scheduler.add(item.entry, now)
        return ()

    def leave(self, item: Item) -> None:
        if item.entry is None:
            self._scheduler.release(item.model, deadline=item.deadline, priority=item.priority)
        else:
            self._scheduler.discard(item.entry)

    def free(self, now: float) -> Decision:
        dropped: list[Item] = []
        while isinstance(decision := self._scheduler.decide(now), Batch):
            dropped += [entry.payload for entry in decision.late]
            if decision.entries:
                self._batch = decision
                return Decision([entry.payload for entry in decision.entries], dropped)
        return Decision(dropped=dropped, until=decision.until if isinstance(decision, Wait) else None)

    def done(self, items: list[Item], now: float) -> None:
        self._scheduler.finished(self._batch, now)


@dataclass
class Queue:
    """One model's, at one of the others; what each of them does otherwise is in its class.

    Attributes:
        most: the largest batch.
        costs: what batches cost.
    """

    most: int
    costs: Costs

    def admit(self, item: Item) -> bool:
        """Say whether an item may come in, before it is decoded."""
        return True

    def put(self, item: Item, now: float) -> Collection[Item]:
        """Let an item wait; return who is turned away."""
        raise NotImplementedError

    def take(self, now: float) -> Decision:
        """Say what a device that is free does with those who wait."""
        raise NotImplementedError

    def left(self, item: Item) -> None:
        """Take note that somebody who was let in is settled, without an answer."""

    def done(self, items: list[Item], now: float) -> None:
        """Take note that a batch was run."""


@dataclass
class Window(Queue):
    """The textbook: a batch goes when it is full, or when its first item has waited for the window.

    Attributes:
        window_s: how long the first may wait.
        limit: how many wait at most; 0: as many as come.
    """

    window_s: float = WINDOW_S
    limit: int = 0
    waiting: deque[Item] = field(default_factory=deque)

    def put(self, item: Item, now: float) -> Collection[Item]:
        if self.limit and len(self.waiting) >= self.limit:
            return (item,)
        self.waiting.append(item)
        return ()

    def take(self, now: float) -> Decision:
        if not self.waiting:
            return Decision()
        until = self.opened() + self.window_s
        if len(self.waiting) < self.most and until > now:
            return Decision(until=until)
        return Decision([self.waiting.popleft() for _ in range(min(self.most, len(self.waiting)))])

    def opened(self) -> float:
        return self.waiting[0].arrived


@dataclass
class Triton(Queue):
    """Priority levels, each first come first served; who is cancelled or waits for too long is taken out.

    triton-inference-server/core, src/dynamic_batch_scheduler.cc (GetDynamicBatch) and src/scheduler_utils.cc
    (PolicyQueue). Out of the box it waits for nobody (max_queue_delay 0), and there are no levels, no timeouts and no
    bound. With `allow_timeout_override` a request may set a shorter timeout than the default. Where there are no limits
    it forms one batch ahead, which still grows until it runs; that is left out here.

    Attributes:
        timeout_s: the queue policy's default timeout, with REJECT as the action.
        own: whether callers send their priority and a timeout, their deadline less what a full batch takes.
    """

    timeout_s: float = float("inf")
    own: bool = False
    waiting: list[tuple[int, float, Item]] = field(default_factory=list)

    def put(self, item: Item, now: float) -> Collection[Item]:
        level, timeout_s = 0, self.timeout_s
        if self.own:
            level = item.priority
            timeout_s = min(timeout_s, max(0.001, item.deadline - now - self.costs[self.most]))
        self.waiting.append((level, now + timeout_s, item))
        return ()

    def take(self, now: float) -> Decision:
        present = [each for each in self.waiting if not each[-1].settled]
        in_time = [each for each in present if each[1] >= now]
        in_time.sort(key=lambda each: each[0])  # stable: inside a level as they came
        self.waiting = in_time[self.most :]
        dropped = [item for _, expires, item in present if expires < now]
        return Decision([item for *_, item in in_time[: self.most]], dropped)


@dataclass
class TfServing(Queue):
    """Arrivals go into the open batch; where they do not fit it is closed, and another opened, up to so many batches.

    tensorflow/tensorflow, core/kernels/batching_util/shared_batch_scheduler.h (Schedule, ScheduleBatch), and
    tensorflow/serving, batching/batching_session.cc (ProcessBatch): beyond the bound it answers UNAVAILABLE; a batch is
    skipped where the deadlines of all in it have passed, and runs whole otherwise. Out of the box batch_timeout is 0,
    and there are ten batches; its guide advises as many as threads where somebody waits. One thread here, as there is
    one device.

    Attributes:
        window_s: batch_timeout.
        batches: max_enqueued_batches, the open one included.
    """

    window_s: float = 0.0
    batches: int = 10
    waiting: deque[list[Item]] = field(default_factory=lambda: deque([[]]))

    def put(self, item: Item, now: float) -> Collection[Item]:
        if len(self.waiting[-1]) == self.most:
            if len(self.waiting) >= self.batches:
                return (item,)
            self.waiting.append([])
        self.waiting[-1].append(item)
        return ()

    def take(self, now: float) -> Decision:
        dropped: list[Item] = []
        while first := self.waiting[0]:
            until = first[0].arrived + self.window_s
            if len(self.waiting) == 1 and len(first) < self.most and until > now:
                return Decision(dropped=dropped, until=until)
            self.waiting.popleft()
            if not self.waiting:
                self.waiting.append([])
            if any(item.deadline > now for item in first):
                return Decision(first, dropped)
            dropped += first
        return Decision(dropped=dropped)


@dataclass
class Tei(Queue):
    """No window; who left is skipped; one batch is formed ahead, as soon as the last one runs and somebody waits.

    huggingface/text-embeddings-inference, core/src/queue.rs (NextBatch) and core/src/infer.rs (batching_task; the
    permits). Out of the box there are 512 permits, which are held from before decoding until the answer.

    Attributes:
        permits: max_concurrent_requests.
    """

    permits: int = 512
    waiting: deque[Item] = field(default_factory=deque)
    ahead: list[Item] = field(default_factory=list)
    running: bool = False
    inside: int = 0

    def admit(self, item: Item) -> bool:
        if self.inside >= self.permits:
            return False
        self.inside += 1
        return True

    def put(self, item: Item, now: float) -> Collection[Item]:
        self.waiting.append(item)
        if self.running and not self.ahead:
            self.ahead = self._next()
        return ()

    def take(self, now: float) -> Decision:
        batch = self.ahead or self._next()
        if batch:
            self.running = True
            self.ahead = self._next()
        return Decision(batch)

    def _next(self) -> list[Item]:
        batch: list[Item] = []
        while self.waiting and len(batch) < self.most:
            item = self.waiting.popleft()
            if not item.settled:
                batch.append(item)
        return batch

    def left(self, item: Item) -> None:
        self.inside -= 1

    def done(self, items: list[Item], now: float) -> None:
        self.running = False
        self.inside -= sum(not item.settled for item in items)


@dataclass
class Mosec(Window):
    """The window opens when the device is free and somebody waits; who is past the service's own timeout is skipped.

    mosecorg/mosec, src/protocol.rs (get_batch), src/tasks.rs (get_multi_tasks_data, add_new_task) and mosec/args.py.
    Skipped ones have had a place in the batch and in the queue; callers who went away earlier are not noticed. Out of
    the box the window is 10 ms, the timeout 3 s, and 1,024 may wait.

    Attributes:
        window_s: max_wait_time.
        timeout_s: --timeout.
        limit: --capacity.
    """

    window_s: float = 0.010
    limit: int = 1024
    timeout_s: float = 3.0
    freed: float = 0.0

    def take(self, now: float) -> Decision:
        dropped: list[Item] = []
        while taken := (found := super().take(now)).items:
            batch = [item for item in taken if item.arrived + self.timeout_s > now]
            dropped += [item for item in taken if item.arrived + self.timeout_s <= now]
            if batch:
                return Decision(batch, dropped)
            self.freed = now
        return Decision(dropped=dropped, until=found.until)

    def opened(self) -> float:
        return max(self.freed, self.waiting[0].arrived)

    def done(self, items: list[Item], now: float) -> None:
        self.freed = now


@dataclass
class BentoMl(Queue):
    """The oldest is cancelled where all who wait would take him past the latency objective; the newest go first.

    bentoml/BentoML, src/bentoml/_internal/marshal/dispatcher.py (CorkDispatcher.controller, Optimizer): with w0 and wn
    the waits of the oldest and the newest, and a·n + b the cost of n, he is cancelled if n > 1 and w0 + a·n + b reaches
    max_latency; a free device waits, a millisecond at a time, while n (wn + 1 ms + a) is at most 0.95 of what the
    oldest of a batch have waited of late. Callers who went away are not noticed. Out of the box max_latency is 60 s.
    Here a and b are those of the true costs, and the mean wait is of the last 50 batches, not refreshed every 5 s.

    Attributes:
        max_latency_s: the objective.
    """

    max_latency_s: float = 60.0
    waiting: deque[Item] = field(default_factory=deque)
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def put(self, item: Item, now: float) -> Collection[Item]:
        self.waiting.append(item)
        return self._cancelled(now)

    def take(self, now: float) -> Decision:
        dropped, count = self._cancelled(now), len(self.waiting)
        if not count:
            return Decision(dropped=dropped)
        wait_s = sum(self.waits) / len(self.waits) if self.waits else 0.0
        newest_s = now - self.waiting[-1].arrived
        if count < self.most and count * (newest_s + 0.001 + self._line()[0]) <= 0.95 * wait_s:
            return Decision(dropped=dropped, until=now + 0.001)
        batch = [self.waiting.pop() for _ in range(min(self.most, count))]
        self.waits.append(now - batch[-1].arrived)
        return Decision(batch, dropped)

    def _cancelled(self, now: float) -> list[Item]:
        slope, fixed = self._line()
        dropped = []
        while (count := len(self.waiting)) > 1:
            if now - self.waiting[0].arrived + slope * count + fixed < self.max_latency_s:
                break
            dropped.append(self.waiting.popleft())
        return dropped

    def _line(self) -> tuple[float, float]:
        low, high = min(self.costs), max(self.costs)
        slope = (self.costs[high] - self.costs[low]) / (high - low)
        return slope, self.costs[low] - slope * low


class Peer:
    """A queue for every model; those that have a batch take turns."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = queues
        self._turns = deque(queues)

    def admit(self, item: Item, ready: float, now: float) -> bool:
        return self._queues[item.model].admit(item)

    def arrive(self, item: Item, now: float) -> Collection[Item]:
        item.arrived = now
        return self._queues[item.model].put(item, now)

    def leave(self, item: Item) -> None:
        self._queues[item.model].left(item)

    def free(self, now: float) -> Decision:
        dropped: list[Item] = []
        until: list[float] = []
        for _ in range(len(self._turns)):
            found = self._queues[self._turns[0]].take(now)
            self._turns.rotate(-1)
            dropped += found.dropped
            if found.items:
                return Decision(found.items, dropped)
            if found.until is not None:
                until.append(found.until)
        return Decision(dropped=dropped, until=min(until, default=None))

    def done(self, items: list[Item], now: float) -> None:
        self._queues[items[0].model].done(items, now)


Policy = Regard | Peer

OUT_OF_THE_BOX: dict[str, Callable[[int, Costs], Queue]] = {
    "fifo window": Window,
    "triton": Triton,
    "tf serving": TfServing,
    "tei": Tei,
    "mosec": Mosec,
    "bentoml": BentoMl,
}


def tuned(name: str, most: int, costs: Costs, *, wait_s: float, deadline_s: float) -> Queue:
    """Return a queue with its settings for a workload.

    Args:
        name: whose.
        most: the largest batch.
        costs: seconds by size.
        wait_s: for how long somebody may wait, or how much work may wait.
        deadline_s: the longest that callers have.
    """
    items = max(1, round(wait_s / costs[most] * most))
    match name:
        case "fifo window":
            return Window(most, costs, limit=items)
        case "triton":
            return Triton(most, costs, timeout_s=wait_s, own=True)
        case "tf serving":
            return TfServing(most, costs, window_s=0.001, batches=max(1, round(items / most)))
        case "tei":
            return Tei(most, costs, permits=items)
        case "mosec":
            return Mosec(most, costs, window_s=0.002, timeout_s=deadline_s, limit=items)
        case "bentoml":
            return BentoMl(most, costs, max_latency_s=wait_s)
    raise ValueError(f"there is no {name}; there are {', '.join(OUT_OF_THE_BOX)}")
