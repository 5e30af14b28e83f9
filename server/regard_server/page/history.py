"""What the metrics said lately: percentiles, rates and counts over a sliding window, and a few minutes of them.

    histograms, counters ─→ Reading, one a second ─→ later − earlier ─→ Point (10 s back), Summary (60 s back)

All of it is differences of what Prometheus would scrape, so that page and dashboards agree; percentiles are
interpolated within a bucket as PromQL's `histogram_quantile` does.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

POINT_WINDOW_S: Final = 10.0
SUMMARY_WINDOW_S: Final = 60.0
POINTS: Final = 300
"""How many are kept: five minutes at one a second."""

STAGES: Final = ("decode", "queue", "compute", "total")
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """What one histogram held, or came to hold between two readings.

    Attributes:
        bounds: the buckets' upper bounds, ascending, without infinity: (B,).
        counts: observations in every bucket, not cumulative, the last being beyond all bounds: (B + 1,).
        total: the sum of what was observed.
    """

    bounds: tuple[float, ...]
    counts: Counts
    total: float

    def __sub__(self, earlier: "Tally") -> "Tally":
        return Tally(self.bounds, self.counts - earlier.counts, self.total - earlier.total)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.bounds, self.counts + other.counts, self.total + other.total)

    @property
    def count(self) -> int:
        """How many were observed."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Their mean; None of none."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the value that this share of all stays below, by PromQL's rule; None of none."""
        if not self.count:
            return None
        rank = share * self.count
        reached = np.cumsum(self.counts)
        bucket = int(np.searchsorted(reached, rank))
        if bucket >= len(self.bounds):
            return self.bounds[-1]
        low = self.bounds[bucket - 1] if bucket else 0.0
        before = reached[bucket - 1] if bucket else 0.0
        return float(low + (self.bounds[bucket] - low) * (rank - before) / self.counts[bucket])


Tallies = Mapping[str, Tally]
"""By label: the model, or the method."""


@dataclass(frozen=True)
class Reading:
    """Everything that the page shows, as it stood at one moment.

    Attributes:
        at_s: monotonic clock.
        wall_s: seconds since 1970, for people.
        stages: of `STAGES`, each by model; "total" is of Extract calls, by method.
        batch_size: by model.
        items: images by (model, outcome).
        requests: calls by (method, code).
        queue_depth: images that wait for the device.
        in_flight: images inside the server.
    """

    at_s: float
    wall_s: float
    stages: Mapping[str, Tallies]
    batch_size: Tallies
    items: Mapping[tuple[str, str], float]
    requests: Mapping[tuple[str, str], float]
    queue_depth: int
    in_flight: int


@dataclass(frozen=True)
class Point:
    """One moment of the charts: the last `POINT_WINDOW_S`.

    Attributes:
        wall_s: seconds since 1970.
        quantiles_s: by (stage, name of the quantile), in seconds; None where nothing was observed.
        ok: images answered a second.
        failed: images not answered a second, for whatever reason.
        queue_depth: at that moment.
        in_flight: at that moment.
    """

    wall_s: float
    quantiles_s: Mapping[tuple[str, str], float | None]
    ok: float
    failed: float
    queue_depth: int
    in_flight: int


@dataclass(frozen=True)
class Summary:
    """The last `SUMMARY_WINDOW_S`, or as much of it as there is.

    Attributes:
        span_s: how long it was.
        stages: over all models.
        compute: by model.
        batch_size: by model.
        items: images by (model, outcome) in that time.
        requests: calls by (method, code) in that time.
    """

    span_s: float
    stages: Mapping[str, Tally | None]
    compute: Tallies
    batch_size: Tallies
    items: Mapping[tuple[str, str], float]
    requests: Mapping[tuple[str, str], float]


@dataclass
class History:
    """Readings of the last minute and points of the last few; used by one thread at a time, see `watch.py`."""

    _readings: deque[Reading] = field(default_factory=deque)
    _points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))

    @property
    def latest(self) -> Reading | None:
        """The newest reading, if there is one."""
        return self._readings[-1] if self._readings else None

    def add(self, reading: Reading) -> None:
        """Take a reading and make a point of it; what is too old to be compared with goes."""
        self._readings.append(reading)
        while reading.at_s - self._readings[1 if len(self._readings) > 1 else 0].at_s >= SUMMARY_WINDOW_S:
            self._readings.popleft()
        earlier = self._before(POINT_WINDOW_S)
        if earlier is not reading:
            self._points.append(_point(earlier, reading))

    def points(self, since_s: float = 0.0) -> list[Point]:
        """Return the points after a time (seconds since 1970), oldest first."""
        return [point for point in self._points if point.wall_s > since_s]

    def summary(self) -> Summary | None:
        """Compare the newest reading with the oldest of the last minute; None before the second."""
        if len(self._readings) < 2:  # noqa: PLR2004 - a difference needs two
            return None
        earlier, later = self._before(SUMMARY_WINDOW_S), self._readings[-1]
        return Summary(
            span_s=later.at_s - earlier.at_s,
            stages={stage: _all(_since(earlier.stages[stage], later.stages[stage])) for stage in STAGES},
            compute=_since(earlier.stages["compute"], later.stages["compute"]),
            batch_size=_since(earlier.batch_size, later.batch_size),
            items=_grown(earlier.items, later.items),
            requests=_grown(earlier.requests, later.requests),
        )

    def _before(self, window_s: float) -> Reading:
        """Return the newest reading that is at least so old, or the oldest that there is."""
        now_s = self._readings[-1].at_s
        found = self._readings[0]
        for reading in self._readings:
            if now_s - reading.at_s < window_s:
                break
            found = reading
        return found


def _point(earlier: Reading, later: Reading) -> Point:
    span_s = later.at_s - earlier.at_s
    items = _grown(earlier.items, later.items)
    ok = sum(count for (_, outcome), count in items.items() if outcome == "ok")
    quantiles: dict[tuple[str, str], float | None] = {}
    for stage in STAGES:
        tally = _all(_since(earlier.stages[stage], later.stages[stage]))
        for name, share in QUANTILES.items():
            quantiles[stage, name] = tally.quantile(share) if tally else None
    return Point(
        wall_s=later.wall_s,
        quantiles_s=quantiles,
        ok=ok / span_s,
        failed=(sum(items.values()) - ok) / span_s,
        queue_depth=later.queue_depth,
        in_flight=later.in_flight,
    )


def _since(earlier: Tallies, later: Tallies) -> dict[str, Tally]:
    """Return what was added; a label that is new began at nothing."""
    return {label: tally - earlier[label] if label in earlier else tally for label, tally in later.items()}


def _all(tallies: Tallies) -> Tally | None:
    """Add up over labels."""
    found: Tally | None = None
    for tally in tallies.values():
        found = tally if found is None else found + tally
    return found


def _grown(
    earlier: Mapping[tuple[str, str], float], later: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    """Return what the counters grew by, without those that did not."""
    grown = {labels: count - earlier.get(labels, 0.0) for labels, count in later.items()}
    return {labels: count for labels, count in grown.items() if count}
