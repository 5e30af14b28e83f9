"""The scheduler against other policies, in simulated time: `python tests/benchmarks/simulation.py`.

One device with the costs of ResNet-18 at 64x64 on two cores (performance table of the eager engine), with noise;
arrivals at 0.5 to 5 times its capacity, evenly random or in bursts, or recorded: `--arrivals FILE` takes one time
in seconds a line; some beside a neighbour who slows the device now and then; and callers in a closed loop. Every
request has the same deadline, after which its caller leaves. Goodput is what was answered in time. The simulated clock
is exact, so figures depend on the seed alone.
"""

import argparse
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import report
from policies import POLICIES, Item

COSTS = {1: 0.0120, 2: 0.0135, 4: 0.0165, 8: 0.0225, 16: 0.0390, 32: 0.0722}
MOST = 32
CAPACITY = MOST / COSTS[MOST]
WINDOW_S = 0.004
TIMEOUT_S = 0.250
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
# What is sent to a device that others slow down now and then, too.
BESIDE = ("even 0.8x", "even 2.0x", "even 5.0x")


def cost(size: int, noise: random.Random) -> float:
    """Return how long a batch takes: between known sizes on a straight line, sometimes disturbed."""
    sizes = sorted(COSTS)
    high = next(each for each in sizes if each >= size)
    low = max((each for each in sizes if each <= size), default=high)
    share = (size - low) / (high - low) if high > low else 0.0
    seconds = COSTS[low] + share * (COSTS[high] - COSTS[low])
    disturbed = 2.0 if noise.random() < 0.01 else 1.0
    return seconds * noise.lognormvariate(0.0, 0.08) * disturbed


def even(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Yield arrivals of a Poisson process."""
    now = chance.expovariate(rate)
    while now < seconds:
        yield now
        now += chance.expovariate(rate)


def bursts(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Yield arrivals that alternate between a fifth and nine fifths of the rate, twice a second."""
    now = 0.0
    while now < seconds:
        busy = int(now * 2) % 2
        now += chance.expovariate(rate * (1.8 if busy else 0.2))
        yield now


class Simulation:
    """One policy, one device, one sequence of events."""

    def __init__(self, policy, seed: int, pace: Callable[[float], float] = lambda _: 1.0) -> None:
        self._policy = policy
        self._pace = pace
        self._noise = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._running: list[Item] | None = None
        self._waking: float | None = None
        self.latencies: list[float] = []
        self.sizes: list[int] = []
        self.sent = self.refused = self.late = 0
        self.wasted = 0

    def at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            now, _, event = heapq.heappop(self._events)
            event(now)

    def send(self, now: float, answered: Callable[[float], None] = lambda _: None) -> None:
        item = Item(now, now + TIMEOUT_S)
        self.sent += 1
        if not self._policy.arrive(item, now):
            self.refused += 1
            self.at(now + 0.010, answered)  # a refused caller comes back no sooner
            return
        item.answered = answered
        self.at(item.deadline, lambda when: self._expire(item, when))
        self._ask(now)

    def _expire(self, item: Item, now: float) -> None:
        if not item.settled:
            item.settled = True
            self.late += 1
            self._policy.leave(item)
            item.answered(now)

    def _ask(self, now: float) -> None:
        if self._running is not None:
            return
        decision = self._policy.free(now)
        if isinstance(decision, float):
            if self._waking is None or decision < self._waking or self._waking <= now:
                self._waking = decision
                self.at(decision, self._ask)
            return
        if decision is None:
            return
        items, _ = decision
        if not items:
            self._ask(now)
            return
        self._running = items
        self.sizes.append(len(items))
        self.at(now + self._pace(now) * cost(len(items), self._noise), self._finish)

    def _finish(self, now: float) -> None:
        items, self._running = self._running, None
        self._policy.done(now)
        for item in items:
            if item.settled:
                self.wasted += 1
            else:
                item.settled = True
                self.latencies.append(now - item.arrived)
                item.answered(now)
        self._ask(now)

    def row(self, seconds: float) -> dict:
        ordered = sorted(self.latencies) or [float("nan")]
        return {
            "goodput/s": len(self.latencies) / seconds,
            "p50 ms": ordered[len(ordered) // 2] * 1000,
            "p99 ms": ordered[int(len(ordered) * 0.99)] * 1000,
            "batch": sum(self.sizes) / max(1, len(self.sizes)),
            "refused %": 100 * self.refused / max(1, self.sent),
            "late %": 100 * self.late / max(1, self.sent),
            "wasted %": 100 * self.wasted / max(1, sum(self.sizes)),
        }


def neighbour(now: float) -> float:
    """Return how much longer batches take beside somebody who is busy for two seconds of four."""
    return 1.5 if now % 4 >= 2 else 1.0


def open_loop(policy, times: list[float], seconds: float, pace: Callable[[float], float]) -> dict:
    """Send at given times, whatever happens."""
    simulation = Simulation(policy(MOST, WINDOW_S, COSTS), seed=1, pace=pace)
    for when in times:
        simulation.at(when, simulation.send)
    simulation.run(seconds)
    return simulation.row(seconds)


def closed_loop(policy, callers: int, seconds: float) -> dict:
    """Let callers send again half a millisecond or so after they were answered."""
    simulation = Simulation(policy(MOST, WINDOW_S, COSTS), seed=1)
    chance = random.Random(2)

    def again(now: float) -> None:
        simulation.at(now + chance.uniform(0.0003, 0.0020), lambda when: simulation.send(when, again))

    for _ in range(callers):
        again(0.0)
    simulation.run(seconds)
    return simulation.row(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of simulated time, each")
    parser.add_argument("--arrivals", type=Path, help="recorded arrivals instead of synthetic ones")
    arguments = parser.parse_args()
    seconds, rows = arguments.seconds, []
    print(f"capacity {CAPACITY:.0f}/s at batches of {MOST}; deadline {TIMEOUT_S * 1000:.0f} ms\n")
    sequences: dict[str, list[float]] = {}
    if arguments.arrivals:
        sequences["recorded"] = [float(line) for line in arguments.arrivals.read_text().split()]
    else:
        for load in LOADS:
            sequences[f"even {load}x"] = list(even(load * CAPACITY, seconds, random.Random(0)))
        for load in (0.8, 2.0):
            sequences[f"bursts {load}x"] = list(bursts(load * CAPACITY, seconds, random.Random(0)))
    loads = [(name, times, lambda _: 1.0) for name, times in sequences.items()]
    loads += [(f"{name}, neighbour", sequences[name], neighbour) for name in BESIDE if name in sequences]
    for name, times, pace in loads:
        print(name)
        found = [{"policy": policy.name, **open_loop(policy, times, seconds, pace)} for policy in POLICIES]
        report.print_table(found)
        rows += [{"arrivals": name, **row} for row in found]
    for callers in (1, 2, 8, 20, 32, 64):
        print(f"closed loop, {callers} callers")
        found = [{"policy": policy.name, **closed_loop(policy, callers, seconds)} for policy in POLICIES]
        report.print_table(found)
        rows += [{"arrivals": f"closed {callers}", **row} for row in found]
    print("written to", report.save("simulation", rows, seconds=seconds, costs=COSTS, timeout_s=TIMEOUT_S))


if __name__ == "__main__":
    main()
