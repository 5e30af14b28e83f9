"""Counters and histograms of our own beside prometheus-client's."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from regard_server.instruments import CounterFamily, HistogramFamily

BOUNDS = (0.001, 0.5, 1, 2.5, 10)
values = st.floats(0, 20) | st.sampled_from(BOUNDS)
models = st.sampled_from(["one", 'quoted " one', "two\nlines"])


def exposed(registry):
    """What a scrape returns, but for the times of creation, which ours do not tell."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(st.lists(st.tuples(models, values)))
def test_a_histogram_is_exposed_as_prometheus_client_does(observations):
    """The same observations give the same text, values on a bound included."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = HistogramFamily("seconds", "About.", ["model"], BOUNDS, ours)
    other = Histogram("seconds", "About.", ["model"], buckets=BOUNDS, registry=theirs)
    for model, value in observations:
        mine.labels(model).observe(value)
        other.labels(model).observe(value)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(st.tuples(st.integers(0, 80).map(lambda eighths: eighths / 8), st.integers(1, 4))))
def test_an_observation_that_came_so_many_times_is_that_many(observations):
    """Buckets and sum are the same; eighths, whose sum is exact in any order."""
    registries = CollectorRegistry(), CollectorRegistry()
    one, other = (HistogramFamily("seconds", "About.", ["model"], BOUNDS, each) for each in registries)
    for value, times in observations:
        for _ in range(times):
            one.labels("model").observe(value)
        other.labels("model").observe(value, times)
    if observations:
        assert exposed(registries[0]) == exposed(registries[1])


@given(st.lists(st.tuples(models, st.sampled_from([0.125, 3.0]), st.booleans())))
def test_what_is_counted_apart_is_added_to_the_rest(observations):
    """Where two threads count, a scrape and the page see the sums, and none of either's own changes the other's."""
    registries = CollectorRegistry(), CollectorRegistry()
    one, two = (HistogramFamily("seconds", "About.", ["model"], BOUNDS, each) for each in registries)
    once, twice = (CounterFamily("things", "About.", ["model"], each) for each in registries)
    for model, value, apart in observations:
        one.labels(model).observe(value)
        once.labels(model).inc(value)
        (two.apart if apart else two.labels)(model).observe(value)
        (twice.apart if apart else twice.labels)(model).inc(value)
    assert exposed(registries[0]) == exposed(registries[1])
    assert {key: each.counts for key, each in one.children().items()} == {
        key: each.counts for key, each in two.children().items()
    }


@given(st.lists(st.tuples(models, st.integers(0, 9))))
def test_a_counter_is_exposed_as_prometheus_client_does(additions):
    """The same additions give the same text."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = CounterFamily("things", "About.", ["model", "kind"], ours)
    other = Counter("things", "About.", ["model", "kind"], registry=theirs)
    for model, by in additions:
        mine.labels(model, "of a kind").inc(by)
        other.labels(model, "of a kind").inc(by)
    assert exposed(ours) == exposed(theirs)


def test_a_counter_without_labels_is_exposed_from_the_start():
    """Zero is said, so that a rate is known from the first event on."""
    registry = CollectorRegistry()
    count = CounterFamily("bytes", "About.", [], registry).labels()
    assert "bytes_total 0.0" in generate_latest(registry).decode()
    count.inc(7)
    assert "bytes_total 7.0" in generate_latest(registry).decode()
