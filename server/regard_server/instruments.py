"""Counters and histograms that the hot path can afford: plain numbers, read by prometheus-client when it scrapes.

prometheus-client's own take a lock for every number and look for a histogram's bucket one by one: 2 to 3 µs an
observation, several for every image. Here one thread writes, the event loop's, and a scrape reads a moment's state.
Another one that counts has children `apart`, which are added to the others when they are read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Child = TypeVar("Child")


class Count:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        """Add to it."""
        self.value += by


class Distribution:
    """How many observations fell into each bucket, and their sum.

    Args:
        bounds: the upper bounds of the buckets, rising; what is above the last goes into one more.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Take note of a value that came so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class _Family(Collector, Generic[Child]):
    """What has one child for every combination of label values."""

    def __init__(self, name: str, about: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._children: dict[tuple[str, ...], Child] = {}
        self._apart: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return the child of these label values, in the order of the labels' names."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._new()
        return child

    def apart(self, *values: str) -> Child:
        """Return the like of `labels` for those who take calls, in whichever thread: one at a time."""
        child = self._apart.get(values)
        if child is None:
            child = self._apart[values] = self._new()
        return child

    def children(self) -> dict[tuple[str, ...], Child]:
        """Return what there is by label values, at a small part of what a scrape takes."""
        children = dict(self._children)
        for values, child in list(self._apart.items()):
            other = children.get(values)
            children[values] = child if other is None else self._sum(child, other)
        return children

    def _new(self) -> Child:
        raise NotImplementedError

    def _sum(self, one: Child, other: Child) -> Child:
        raise NotImplementedError


class CounterFamily(_Family[Count]):
    """Counters by labels."""

    def collect(self) -> Iterable[Metric]:
        """Say what was counted."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, count in self.children().items():
            family.add_metric(values, count.value)
        return [family]

    def _new(self) -> Count:
        return Count()

    def _sum(self, one: Count, other: Count) -> Count:
        count = Count()
        count.value = one.value + other.value
        return count


class HistogramFamily(_Family[Distribution]):
    """Histograms by labels, all with the same buckets."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        super().__init__(name, about, labels, registry)
        self._bounds = bounds

    def collect(self) -> Iterable[Metric]:
        """Say what was observed."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for values, found in self.children().items():
            reached = accumulate(found.counts)
            family.add_metric(values, list(zip(bounds, reached, strict=True)), found.total)
        return [family]

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def _sum(self, one: Distribution, other: Distribution) -> Distribution:
        distribution = Distribution(self._bounds)
        distribution.counts = [sum(pair) for pair in zip(one.counts, other.counts, strict=True)]
        distribution.total = one.total + other.total
        return distribution
