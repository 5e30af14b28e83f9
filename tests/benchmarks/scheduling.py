"""What the scheduler costs an item, by how many wait: `python tests/benchmarks/scheduling.py`.

    fill to N ─→ [ reserve ─→ release + add ─→ decide: a batch ─→ finished ] × cycles, N waiting throughout

Nothing runs and no time passes but the scheduler's own: the clock that it is told is made up, deadlines are random
and far away, and as many come as go. `item` is what an image pays in all; `discard` is what one that leaves pays.
Batches are of 32 where so many wait in a bucket; with fewer, decide and finished are shared by fewer. Time is the
thread's own processor time, which a busy machine disturbs least; garbage collection is on, as in a server.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass, field

import report

from regard_server.cost import CostModel
from regard_server.hold import Hold
from regard_server.scheduler import Scheduler
from regard_server.waiting import Entry

MOST = 32
BATCH_S = 0.001
FAR_S = 1e6
# So many cycles for one in which entries come and leave again.
LEAVING = 4


@dataclass
class Spent:
    """Seconds in each step, and how many items took it."""

    seconds: dict[str, float] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)

    def add(self, step: str, began: float, items: int) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + time.thread_time() - began
        self.items[step] = self.items.get(step, 0) + items

    def microseconds(self, step: str) -> float:
        return self.seconds[step] / self.items[step] * 1e6


class Load:
    """A scheduler with so many waiting in so many buckets, and what happens to it next."""

    def __init__(self, waiting: int, buckets: int) -> None:
        costs = CostModel()
        self._keys = [f"bucket {number}" for number in range(buckets)]
        for key in self._keys:
            for size in (1, 2, 4, 8, 16, MOST):
                costs.observe(key, size, BATCH_S * size / MOST)
        self._scheduler = Scheduler(lambda _: MOST, costs, Hold(0.004, costs))
        self._chance = random.Random(0)
        self._now = 0.0
        for _ in range(waiting):
            self._scheduler.add(self._entry(), self._now)
        self._due = min(MOST, waiting)
        self.spent = Spent()

    def cycle(self) -> None:
        """Let as many entries come as went with the last batch, and a batch go."""
        scheduler, spent, now = self._scheduler, self.spent, self._now
        entries = [self._entry() for _ in range(self._due)]

        began = time.thread_time()
        for entry in entries:
            late_s = scheduler.reserve(entry.key, 1, ready=now, deadline=entry.deadline, now=now)
            entry.promised = not late_s
        spent.add("reserve", began, len(entries))

        began = time.thread_time()
        for entry in entries:
            scheduler.add(entry, now)
        spent.add("add", began, len(entries))

        began = time.thread_time()
        batch = scheduler.decide(now, flush=True)
        spent.add("decide", began, len(batch.entries))

        self._now += BATCH_S
        began = time.thread_time()
        scheduler.finished(batch, self._now)
        spent.add("finished", began, len(batch.entries))
        self._due = len(batch.entries)

    def leave(self) -> None:
        """Let entries come and leave at once, among those that wait."""
        entries = [self._entry() for _ in range(MOST)]
        for entry in entries:
            self._scheduler.add(entry, self._now)
        began = time.thread_time()
        for entry in entries:
            self._scheduler.discard(entry)
        self.spent.add("discard", began, MOST)

    def _entry(self) -> Entry:
        deadline = self._now + self._chance.uniform(FAR_S, 2 * FAR_S)
        return Entry(self._chance.choice(self._keys), None, None, deadline)


def measure(waiting: int, buckets: int, cycles: int) -> dict:
    """Return microseconds an item in each step."""
    load = Load(waiting, buckets)
    for number in range(cycles):
        load.cycle()
        if number % LEAVING == 0:
            load.leave()
    steps = ("reserve", "add", "decide", "finished")
    figures = {step: load.spent.microseconds(step) for step in steps}
    return {**figures, "item": sum(figures.values()), "discard": load.spent.microseconds("discard")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiting", nargs="+", type=int, default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--buckets", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--cycles", type=int, default=1_000, help="batches of every measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[tuple[int, int], list[dict]] = {}
    for _ in range(arguments.rounds):
        for buckets in arguments.buckets:
            for waiting in arguments.waiting:
                found.setdefault((buckets, waiting), []).append(measure(waiting, buckets, arguments.cycles))
    rows = [
        {"buckets": buckets, "waiting": waiting}
        | {f"{step} µs": statistics.median(each[step] for each in rounds) for step in rounds[0]}
        for (buckets, waiting), rounds in found.items()
    ]
    print(f"{report.machine()['processor']}; microseconds an item, medians of {arguments.rounds} rounds\n")
    report.print_table(rows)
    print("written to", report.save("scheduling", rows, cycles=arguments.cycles, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
