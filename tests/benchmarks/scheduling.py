"""What the scheduler costs an item, by how many wait: `python tests/benchmarks/scheduling.py`.

    fill to N ─→ [ reserve ─→ release + add ─→ decide: a batch ─→ finished ] × cycles, N waiting throughout

Nothing runs and no time passes but the scheduler's own: the clock that it is told is made up, deadlines are random
and far away, and as many come as go. `item` is what an image pays in all; `discard` is what one that leaves pays.
Batches are of 32 where so many wait in a bucket; with fewer, decide and finished are shared by fewer. Time is the
thread's own processor time, which a busy machine disturbs least; garbage collection is on, as in a server.

A second table is of what overload does, with N waiting: `refuse` and `foresee` say no to one image, `drop` is what one
pays whose deadline passed unnoticed, half of all at once, and `leave` what one of two thirds of all pays who leave one
after the other. The batcher holds its lock meanwhile, so the worst single call of all rounds is there, too.
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
# So many refusals.
REFUSALS = 1_000


@dataclass
class Spent:
    """Seconds in each step, and how many items took it."""

    seconds: dict[str, float] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    worst_s: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, began: float, items: int) -> None:
        took_s = time.thread_time() - began
        self.seconds[step] = self.seconds.get(step, 0.0) + took_s
        self.items[step] = self.items.get(step, 0) + items
        self.worst_s[step] = max(self.worst_s.get(step, 0.0), took_s)

    def microseconds(self, step: str) -> float:
        return self.seconds[step] / self.items[step] * 1e6

    def worst_ms(self, step: str) -> float:
        return self.worst_s[step] * 1e3


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

    def refuse(self) -> None:
        """Say no to images whose deadline is too near, known and unknown."""
        scheduler, near = self._scheduler, self._now + BATCH_S / MOST
        for step, ask in (
            ("refuse", lambda key: scheduler.reserve(key, 1, ready=self._now, deadline=near, now=self._now)),
            ("foresee", lambda _: scheduler.foresee(near, self._now)),
        ):
            for _ in range(REFUSALS):
                key = self._chance.choice(self._keys)
                began = time.thread_time()
                ask(key)
                self.spent.add(step, began, 1)

    def drop(self) -> None:
        """Let the deadlines of as many as wait pass, and a batch be formed."""
        scheduler = self._scheduler
        for _ in range(len(scheduler)):
            scheduler.add(self._entry(within_s=BATCH_S), self._now)
        self._now += 2 * BATCH_S
        late = 1
        while late:
            began = time.thread_time()
            batch = scheduler.decide(self._now, flush=True)
            late = len(batch.late) if batch else 0
            if late:
                self.spent.add("drop", began, late)
                scheduler.finished(batch, self._now)

    def leave_in_mass(self) -> None:
        """Let twice as many as wait come, and leave one after the other, in no order."""
        entries = [self._entry() for _ in range(2 * len(self._scheduler))]
        for entry in entries:
            self._scheduler.add(entry, self._now)
        self._chance.shuffle(entries)
        for entry in entries:
            began = time.thread_time()
            self._scheduler.discard(entry)
            self.spent.add("leave", began, 1)

    def _entry(self, within_s: float = 0.0) -> Entry:
        if within_s:
            return Entry(self._chance.choice(self._keys), None, None, self._now + within_s)
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
    figures = {f"{step} µs": load.spent.microseconds(step) for step in steps}
    return {
        **figures,
        "item µs": sum(figures.values()),
        "discard µs": load.spent.microseconds("discard"),
        "decide, worst ms": load.spent.worst_ms("decide"),
    }


def overload(waiting: int, buckets: int) -> dict:
    """Return microseconds for one in each step of overload, and the worst single ones in milliseconds."""
    load = Load(waiting, buckets)
    load.refuse()
    load.leave_in_mass()
    load.drop()
    figures: dict[str, float] = {}
    for step in ("refuse", "foresee", "leave", "drop"):
        figures |= {
            f"{step} µs": load.spent.microseconds(step),
            f"{step}, worst ms": load.spent.worst_ms(step),
        }
    return figures


def summed_up(rounds: list[dict]) -> dict:
    """Return medians, and of the worst steps the worst."""
    return {
        name: (max if "worst" in name else statistics.median)(each[name] for each in rounds)
        for name in rounds[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiting", nargs="+", type=int, default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--buckets", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--cycles", type=int, default=1_000, help="batches of every measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows: dict[str, dict[tuple[int, int], list[dict]]] = {"ordinary": {}, "overload": {}}
    for _ in range(arguments.rounds):
        for buckets in arguments.buckets:
            for waiting in arguments.waiting:
                for kind, figures in (
                    ("ordinary", measure(waiting, buckets, arguments.cycles)),
                    ("overload", overload(waiting, buckets)),
                ):
                    rows[kind].setdefault((buckets, waiting), []).append(figures)
    print(f"{report.machine()['processor']}; microseconds an item, medians of {arguments.rounds} rounds\n")
    tables = []
    for kind, found in rows.items():
        print(kind)
        table = [
            {"buckets": buckets, "waiting": waiting} | summed_up(rounds)
            for (buckets, waiting), rounds in found.items()
        ]
        report.print_table(table)
        tables += [{"table": kind} | row for row in table]
    print("written to", report.save("scheduling", tables, cycles=arguments.cycles, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
