"""Percentiles and rates over a sliding window, with the test's own clock."""

import logging

import numpy as np
import pytest

from regard_server.embeddings import EmbeddingHealth
from regard_server.metrics import SECONDS, Metrics
from regard_server.page.history import POINTS, STAGES, History, Tally
from regard_server.page.reading import read

MODEL = "m"


class Watched:
    """Metrics, and a history that reads them when the test says that a second has passed."""

    def __init__(self):
        self.metrics = Metrics(
            EmbeddingHealth(
                samples_per_s=1, reference_samples=8, folder=None, logger=logging.getLogger("test")
            )
        )
        self.history = History()
        self.now_s = 100.0

    def tick(self, seconds=1.0):
        self.now_s += seconds
        self.history.add(
            read(
                self.metrics,
                at_s=self.now_s,
                wall_s=1e9 + self.now_s,
                queue_depth=lambda: 3,
                in_flight=lambda: 5,
            )
        )

    def compute(self, *seconds):
        for each in seconds:
            self.metrics.compute_seconds.labels(MODEL).observe(each)

    @property
    def point(self):
        return self.history.points()[-1]


@pytest.fixture
def watched():
    watched = Watched()
    watched.tick(0.0)
    return watched


def tally(**counts):
    bounds = (1.0, 2.0, 4.0)
    return Tally(bounds, np.array([counts.get(name, 0) for name in ("a", "b", "c", "beyond")], float), 0.0)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({"a": 4}, 0.5, 0.5),
        ({"b": 4}, 0.5, 1.5),
        ({"a": 2, "c": 2}, 0.5, 1.0),
        ({"a": 2, "c": 2}, 0.75, 3.0),
        ({"a": 1, "b": 1, "c": 2}, 0.99, 2 + 2 * (3.96 - 2) / 2),
        ({"beyond": 3}, 0.5, 4.0),
        ({}, 0.5, None),
    ],
)
def test_a_quantile_follows_promql(counts, share, expected):
    """Linear within its bucket, from 0 in the first, the highest bound beyond all, nothing of nothing."""
    assert tally(**counts).quantile(share) == (expected if expected is None else pytest.approx(expected))


def test_a_quantile_is_within_a_bucket_of_the_truth(watched):
    """What is interpolated is in the bucket that holds the value itself."""
    values = np.random.default_rng(0).lognormal(-3, 1, 2000)
    watched.compute(*values)
    watched.tick()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        found, truth = watched.point.quantiles_s["compute", name], np.quantile(values, share)
        bucket = np.searchsorted(SECONDS, truth)
        assert SECONDS[bucket - 1] <= found <= SECONDS[bucket]


def test_a_point_looks_ten_seconds_back(watched):
    """What was slow leaves the chart ten seconds later, and the table a minute later."""
    watched.compute(5.0)
    watched.tick()
    assert watched.point.quantiles_s["compute", "p50"] > 1
    for _ in range(9):
        watched.tick()
    assert watched.point.quantiles_s["compute", "p50"] > 1
    watched.tick()
    assert watched.point.quantiles_s["compute", "p50"] is None
    assert watched.history.summary().stages["compute"].count == 1
    for _ in range(50):
        watched.tick()
    assert watched.history.summary().stages["compute"].count == 0


def test_rates_are_divided_by_the_time_that_passed(watched):
    """A late reading does not look like more images."""
    items = watched.metrics.items
    for seconds in (1.0, 4.0):
        items.labels(MODEL, "ok").inc(20)
        items.labels(MODEL, "shed").inc(5)
        watched.tick(seconds)
    assert (watched.point.ok, watched.point.failed) == (40 / 5, 10 / 5)
    assert (watched.point.queue_depth, watched.point.in_flight) == (3, 5)


def test_a_model_that_is_new_counts_from_nothing(watched):
    """The first image of a label shows, and models add up."""
    watched.compute(0.1)
    watched.tick()
    watched.metrics.compute_seconds.labels("other").observe(0.1)
    watched.tick()
    summary = watched.history.summary()
    assert summary.stages["compute"].count == 2
    assert {name: each.count for name, each in summary.compute.items()} == {MODEL: 1, "other": 1}


def test_streams_are_no_part_of_the_total(watched):
    """A stream's duration is its caller's affair; the total is of Extract calls."""
    watched.metrics.request_seconds.labels("StreamExtract").observe(1000.0)
    watched.metrics.request_seconds.labels("Extract").observe(0.2)
    watched.tick()
    total = watched.history.summary().stages["total"]
    assert (total.count, total.mean) == (1, pytest.approx(0.2))


def test_memory_is_bounded(watched):
    """However long the server runs, five minutes of points and one of readings are kept."""
    for _ in range(POINTS + 100):
        watched.compute(0.01)
        watched.tick()
    assert len(watched.history.points()) == POINTS
    assert len(watched.history._readings) <= 62
    assert watched.history.summary().span_s == 60


def test_only_newer_points_are_given(watched):
    """Who has seen a point is not sent it again."""
    for _ in range(5):
        watched.tick()
    seen = watched.history.points()[2].wall_s
    assert [point.wall_s - seen for point in watched.history.points(seen)] == [1, 2]


def test_before_anything_happened(watched):
    """An idle server has points without percentiles."""
    watched.tick()
    assert all(watched.point.quantiles_s[stage, "p99"] is None for stage in STAGES)
    assert watched.point.ok == watched.point.failed == 0
