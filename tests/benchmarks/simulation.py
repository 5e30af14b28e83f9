"""The scheduler against other policies, in simulated time: `python tests/benchmarks/simulation.py`.

    arrivals ─→ admit ─→ (decoding) ─→ arrive ─→ one device, one batch at a time ─→ answered, or the caller has left

One device with the costs of ResNet-18 at 64x64 on two cores (performance table of the eager engine), with noise. What
is sent to it, at shares of its capacity:

- one deadline: evenly random or in bursts, some beside a neighbour who slows the device now and then;
- mixed deadlines, two priority classes, two models of unequal cost, callers who go away before their deadline, and
  pictures that have to be decoded first;
- callers in a closed loop;
- with `--trace FILE` what `record.py` wrote, instead of all that: its arrivals, at several speeds, and service times
  drawn from those recorded of that size of batch.

Goodput is what was answered before its deadline to callers who were still there, percentiles are of those answers.
"useful" is the share of the time that full batches of what was answered would have taken: where models differ, many
cheap answers would look better than a few dear ones. "in vain" is how long it took until whoever was not answered knew:
no time where he is refused at once, his whole deadline where he hears nothing. The simulated clock is exact, so figures
depend on the seed alone.
"""

import argparse
import heapq
import itertools
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import report
from policies import OUT_OF_THE_BOX, Costs, Item, Peer, Policy, Regard, tuned
from recording import Recording

COSTS = {1: 0.0120, 2: 0.0135, 4: 0.0165, 8: 0.0225, 16: 0.0390, 32: 0.0722}
MOST = 32
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
MIXED_LOADS = (0.8, 2.0, 5.0)
BURSTS = (0.8, 2.0)
CALLERS = (1, 2, 8, 20, 32, 64)
# Of a trace: how many times as fast as it was recorded.
SPEEDS = (1.0, 2.0, 4.0)
# What is tried for a tuned policy: shares of the longest deadline that somebody may wait, for so long, of another seed.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
TRIAL_S = 5.0

Service = Callable[[str, int, random.Random], float]
"""Says how many seconds a batch takes, by model and size."""


@dataclass(frozen=True)
class Kind:
    """A kind of caller.

    Attributes:
        name: for the table.
        share: of the arrivals.
        deadline_s: after which an answer is worth nothing.
        model: asked for.
        priority: 0 is the most urgent.
        leaving: whether they go away at any time before their deadline.
    """

    name: str
    share: float = 1.0
    deadline_s: float = 0.250
    model: str = "small"
    priority: int = 0
    leaving: bool = False


@dataclass(frozen=True)
class Workload:
    """Who sends what.

    Attributes:
        kinds: of callers.
        costs: seconds by size of batch, by model; what a policy is told of them, too.
        service: how long batches take.
        decoding_s: the mean time from arrival until an image can wait for the device.
    """

    kinds: tuple[Kind, ...] = (Kind("all"),)
    costs: Mapping[str, Costs] = field(default_factory=lambda: {"small": COSTS})
    service: Service | None = None
    decoding_s: float = 0.0

    @property
    def capacity(self) -> float:
        """Items a second in full batches."""
        return 1 / sum(kind.share * self.costs[kind.model][MOST] / MOST for kind in self.kinds)

    def deadline_s(self, model: str) -> float:
        """Return the longest deadline of those who ask for a model."""
        return max(kind.deadline_s for kind in self.kinds if kind.model == model)

    def seconds(self, model: str, size: int, noise: random.Random) -> float:
        if self.service:
            return self.service(model, size, noise)
        disturbed = 2.0 if noise.random() < 0.01 else 1.0
        return between(self.costs[model], size) * noise.lognormvariate(0.0, 0.08) * disturbed


WORKLOADS = {
    "mixed deadlines": Workload((Kind("100 ms", 0.5, 0.100), Kind("1 s", 0.5, 1.0))),
    "two classes": Workload((Kind("urgent", 0.3), Kind("others", 0.7, priority=1))),
    "two models": Workload(
        (Kind("small", 0.8), Kind("large", 0.2, 0.500, "large")),
        {"small": COSTS, "large": {size: 4 * seconds for size, seconds in COSTS.items()}},
    ),
    "leaving": Workload((Kind("staying", 0.7), Kind("leaving", 0.3, leaving=True))),
    "decoding": Workload(decoding_s=0.020),
}


def between(costs: Costs, size: int) -> float:
    """Return what a batch costs: between known sizes on a straight line."""
    sizes = sorted(costs)
    high = next((each for each in sizes if each >= size), sizes[-1])
    low = max((each for each in sizes if each <= size), default=high)
    share = (size - low) / (high - low) if high > low else 0.0
    return costs[low] + share * (costs[high] - costs[low])


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


def neighbour(now: float) -> float:
    """Return how much longer batches take beside somebody who is busy for two seconds of four."""
    return 1.5 if now % 4 >= 2 else 1.0


class Simulation:
    """One policy, one device, one sequence of events."""

    def __init__(
        self, policy: Policy, workload: Workload, *, pace: Callable[[float], float] = lambda _: 1.0
    ) -> None:
        self._policy = policy
        self._workload = workload
        self._pace = pace
        self._noise = random.Random(1)
        self._chance = random.Random(2)  # of callers; the same for every policy
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._running: list[Item] | None = None
        self._waking: float | None = None
        self.latencies: dict[str, list[float]] = {kind.name: [] for kind in workload.kinds}
        self.in_vain: list[float] = []
        self.sizes: list[int] = []
        self.sent = self.refused = self.late = self.left = self.wasted = self.decoded = 0

    def at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            now, _, event = heapq.heappop(self._events)
            event(now)

    def send(self, now: float, kind: Kind, answered: Callable[[float], None] = lambda _: None) -> None:
        item = Item(now, now + kind.deadline_s, kind.model, kind.priority, kind.name, answered=answered)
        leaves = self._chance.uniform(0, kind.deadline_s)
        decoding_s = self._workload.decoding_s * self._chance.lognormvariate(-0.045, 0.3)
        self.sent += 1
        if not self._policy.admit(item, now + self._workload.decoding_s, now):
            self._refuse(item, now)
            return
        if kind.leaving:
            self.at(now + leaves, lambda when: self._leave(item, when, went=True))
        self.at(item.deadline, lambda when: self._leave(item, when))
        if decoding_s:
            self.at(now + decoding_s, lambda when: self._arrive(item, when))
        else:
            self._arrive(item, now)

    def _arrive(self, item: Item, now: float) -> None:
        self.decoded += 1
        if not item.settled:
            for each in self._policy.arrive(item, now):
                self._refuse(each, now)
            self._ask(now)

    def _refuse(self, item: Item, now: float) -> None:
        if not item.settled:
            item.settled = True
            self.refused += 1
            self.in_vain.append(now - item.sent)
            self.at(now + 0.010, item.answered)  # a refused caller comes back no sooner

    def _leave(self, item: Item, now: float, *, went: bool = False) -> None:
        if not item.settled:
            item.settled = True
            self.left += went
            if not went:
                self.late += 1
                self.in_vain.append(now - item.sent)
            self._policy.leave(item)
            item.answered(now)

    def _ask(self, now: float) -> None:
        if self._running is not None:
            return
        decision = self._policy.free(now)
        for item in decision.dropped:
            self._refuse(item, now)
        items, until = decision.items, decision.until
        if until is not None and (self._waking is None or until < self._waking or self._waking <= now):
            self._waking = until
            self.at(until, self._ask)
        if not items:
            return
        self._running = items
        self.sizes.append(len(items))
        seconds = self._workload.seconds(items[0].model, len(items), self._noise)
        self.at(now + self._pace(now) * seconds, self._finish)

    def _finish(self, now: float) -> None:
        items, self._running = self._running, None
        self._policy.done(items, now)
        for item in items:
            if item.settled:
                self.wasted += 1
            else:
                item.settled = True
                self.latencies[item.kind].append(now - item.sent)
                item.answered(now)
        self._ask(now)

    def _useful_s(self) -> float:
        """Return for how long the device would have been busy with what was answered, in full batches."""
        costs = self._workload.costs
        return sum(
            len(self.latencies[kind.name]) * costs[kind.model][MOST] / MOST for kind in self._workload.kinds
        )

    def row(self, seconds: float) -> dict:
        """Return goodput and percentiles, of each kind where there are several, and what became of the others."""
        found: dict[str, float] = {}
        several = len(self.latencies) > 1
        for kind, latencies in self.latencies.items():
            of_kind = f"{kind}: " if several else ""
            ordered = sorted(latencies) or [float("nan")]
            found |= {
                f"{of_kind}goodput/s": len(latencies) / seconds,
                f"{of_kind}p50 ms": ordered[len(ordered) // 2] * 1000,
                f"{of_kind}p99 ms": ordered[int(len(ordered) * 0.99)] * 1000,
            }
        in_vain = sorted(self.in_vain) or [float("nan")]
        return found | {
            "goodput/s": sum(map(len, self.latencies.values())) / seconds,
            "useful %": 100 * self._useful_s() / seconds,
            "in vain p50 ms": in_vain[len(in_vain) // 2] * 1000,
            "batch": sum(self.sizes) / max(1, len(self.sizes)),
            "refused %": 100 * self.refused / max(1, self.sent),
            "late %": 100 * self.late / max(1, self.sent),
            "left %": 100 * self.left / max(1, self.sent),
            "wasted %": 100 * self.wasted / max(1, sum(self.sizes)),
            "decoded %": 100 * self.decoded / max(1, self.sent),
        }


Arrivals = Sequence[tuple[float, Kind]]


def arrivals(times: Collection[float], kinds: Sequence[Kind]) -> Arrivals:
    """Return who comes at given times, by chance."""
    chance = random.Random(3)
    weights = [kind.share for kind in kinds]
    return [(when, *chance.choices(kinds, weights)) for when in times]


def regard(workload: Workload) -> Policy:
    return Regard(MOST, workload.costs)


def out_of_the_box(name: str, workload: Workload) -> Policy:
    return Peer({model: OUT_OF_THE_BOX[name](MOST, costs) for model, costs in workload.costs.items()})


def with_share(name: str, share: float, workload: Workload) -> Policy:
    """Return a policy whose settings let somebody wait for a share of the longest deadline."""
    queues = {}
    for model, costs in workload.costs.items():
        deadline_s = workload.deadline_s(model)
        queues[model] = tuned(name, MOST, costs, wait_s=share * deadline_s, deadline_s=deadline_s)
    return Peer(queues)


Make = Callable[[Workload], Policy]


@dataclass(frozen=True)
class OpenLoop:
    """Callers who come at given times, whatever happens."""

    name: str
    workload: Workload
    sent: Arrivals
    seconds: float
    pace: Callable[[float], float] = lambda _: 1.0

    def measure(self, make: Make) -> dict:
        simulation = Simulation(make(self.workload), self.workload, pace=self.pace)
        for when, kind in self.sent:
            simulation.at(when, lambda now, kind=kind: simulation.send(now, kind))
        simulation.run(self.seconds)
        return simulation.row(self.seconds)


@dataclass(frozen=True)
class ClosedLoop:
    """Callers who send again half a millisecond or so after they were answered."""

    name: str
    workload: Workload
    callers: int
    seconds: float

    def measure(self, make: Make) -> dict:
        simulation = Simulation(make(self.workload), self.workload)
        chance = random.Random(2)

        def again(now: float) -> None:
            then = now + chance.uniform(0.0003, 0.0020)
            simulation.at(then, lambda when: simulation.send(when, self.workload.kinds[0], again))

        for _ in range(self.callers):
            again(0.0)
        simulation.run(self.seconds)
        return simulation.row(self.seconds)


@dataclass(frozen=True)
class Group:
    """Scenarios for which a policy has the same settings, and those that the settings are chosen by."""

    scenarios: Sequence[OpenLoop | ClosedLoop]
    trials: Sequence[OpenLoop]

    def policies(self) -> Iterator[tuple[str, Make]]:
        """Yield who is compared."""
        yield "regard", regard
        for name in OUT_OF_THE_BOX:
            yield name, partial(out_of_the_box, name)
            yield f"{name}, tuned", partial(with_share, name, self.best(name))

    def best(self, name: str) -> float:
        """Return the share that brings the most goodput, all trials together."""

        def goodput(share: float) -> float:
            return sum(trial.measure(partial(with_share, name, share))["goodput/s"] for trial in self.trials)

        return max(SHARES, key=goodput)


def opened(
    name: str, workload: Workload, loads: Collection[float], seconds: float, seed: int
) -> list[OpenLoop]:
    """Return evenly random arrivals at several shares of the capacity."""
    found = []
    for load in loads:
        times = [*even(load * workload.capacity, seconds, random.Random(seed))]
        found.append(OpenLoop(f"{name} {load}x", workload, arrivals(times, workload.kinds), seconds))
    return found


def in_bursts(seconds: float, seed: int) -> list[OpenLoop]:
    found, one = [], Workload()
    for load in BURSTS:
        times = [*bursts(load * one.capacity, seconds, random.Random(seed))]
        found.append(OpenLoop(f"bursts {load}x", one, arrivals(times, one.kinds), seconds))
    return found


def synthetic(seconds: float, trial_s: float = TRIAL_S) -> Iterator[Group]:
    """Yield what is made up."""
    one = Workload()
    alone = opened("even", one, LOADS, seconds, seed=0)
    beside = [
        replace(each, name=f"{each.name}, neighbour", pace=neighbour)
        for each in opened("even", one, MIXED_LOADS, seconds, seed=0)
    ]
    closed = [ClosedLoop(f"closed {callers}", one, callers, seconds) for callers in CALLERS]
    trials = [*opened("even", one, MIXED_LOADS, trial_s, seed=1), *in_bursts(trial_s, seed=1)]
    yield Group([*alone, *in_bursts(seconds, seed=0), *beside, *closed], trials)
    for name, workload in WORKLOADS.items():
        yield Group(
            opened(name, workload, MIXED_LOADS, seconds, seed=0),
            opened(name, workload, MIXED_LOADS, trial_s, seed=1),
        )


def recorded(recording: Recording) -> Group:
    """Return what was recorded, at several speeds; settings are chosen by the same."""
    kinds = {
        (kind, deadline_s): Kind(f"{kind} {deadline_s:g} s", 1.0, deadline_s, kind)
        for kind, deadline_s in recording.kinds()
    }
    costs = {kind: recording.costs(kind, MOST) for kind, _ in kinds}
    workload = Workload(tuple(kinds.values()), costs, recording.draw)
    scenarios = []
    for speed in SPEEDS:
        sent = [(call.arrived_s / speed, kinds[call.kind, call.deadline_s]) for call in recording.calls]
        scenarios.append(
            OpenLoop(f"recorded {speed}x", workload, sent, recording.calls[-1].arrived_s / speed)
        )
    return Group(scenarios, scenarios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of simulated time, each")
    parser.add_argument("--trial-seconds", type=float, default=TRIAL_S, help="of each trial of a setting")
    parser.add_argument("--trace", type=Path, help="what record.py wrote, instead of what is made up")
    arguments = parser.parse_args()
    rows: list[dict] = []
    if arguments.trace:
        groups: Iterable[Group] = [recorded(Recording.load(arguments.trace))]
    else:
        groups = synthetic(arguments.seconds, arguments.trial_seconds)
    for group in groups:
        policies = [*group.policies()]
        chosen = {name: make.args[1] for name, make in policies if name.endswith("tuned")}
        print("shares of the longest deadline that were best:", chosen)
        for scenario in group.scenarios:
            print(scenario.name)
            found = [{"policy": name, **scenario.measure(make)} for name, make in policies]
            report.print_table(found)
            rows += [{"arrivals": scenario.name, "share": chosen.get(row["policy"]), **row} for row in found]
    trace = str(arguments.trace) if arguments.trace else None
    name = "simulation-trace" if trace else "simulation"
    print("written to", report.save(name, rows, seconds=arguments.seconds, costs=COSTS, trace=trace))


if __name__ == "__main__":
    main()
