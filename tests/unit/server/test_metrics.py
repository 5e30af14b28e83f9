"""The table of deploy/METRICS.md against the metrics that there are."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from regard_server.device_gauges import DeviceGauges
from regard_server.embeddings import EmbeddingHealth
from regard_server.engine import DeviceReading
from regard_server.errors import RegardError
from regard_server.metrics import CODES, OUTCOMES, Metrics

TABLE = Path(__file__).parents[3] / "deploy" / "METRICS.md"
# Of samples, not of series: the library's own.
NOT_OURS = {"le", "quantile"}


@pytest.fixture
def metrics():
    """The metrics of a server that has seen everything, a GPU too."""
    health = EmbeddingHealth(
        samples_per_s=4,
        reference_samples=16,
        folder=None,
        logger=logging.getLogger("none"),
        clock=iter(range(99)).__next__,
    )
    health.watch("m", "f", 8)
    for row in np.random.default_rng(0).normal(size=(16, 8)):
        health.offer("m", {"embedding": row[None]})
    metrics = Metrics(health)
    metrics.expect(models=["m"], methods=["Extract"])
    metrics.watch(
        devices=DeviceGauges(lambda: {"cuda:0": 1.0}, lambda _: DeviceReading(2, 1, 0.5)),
        queue_depth=int,
        images=int,
        size=int,
        cached=int,
        ready=bool,
        most_images=1,
        most_bytes=1,
    )
    metrics.reused.labels("m", "cache")
    metrics.build_info.labels("1", "direct", "true")
    metrics.model_info.labels("m", "f", "true", "float32", "eager", "cpu")
    return metrics


def documented():
    """The rows, as {name: (type, labels)}."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([\w, ]*)\|", TABLE.read_text(), re.MULTILINE)
    table = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert len(table) == len(rows)
    return table


def test_the_table_is_what_there_is(metrics):
    """Every metric is in it by its name on the wire, type and labels, and there is none that is not exported."""
    found = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - NOT_OURS
        assert family.samples, name
        found[name] = (family.type, labels)
    assert documented() == found


def test_series_exist_before_the_first_call(metrics):
    """Of every outcome of a model and every code of a method, at 0."""
    value = metrics.registry.get_sample_value
    assert all(value("regard_items_total", {"model": "m", "outcome": each}) == 0 for each in OUTCOMES)
    assert all(value("regard_requests_total", {"method": "Extract", "code": each}) == 0 for each in CODES)
    assert value("regard_batch_size_count", {"model": "m"}) == 0


def test_codes_are_those_that_can_be_answered():
    """None is missing of those that our errors carry."""

    def codes(error):
        own = {error.code.name} if hasattr(error, "code") else set()
        return own.union(*(codes(each) for each in error.__subclasses__()))

    assert codes(RegardError) | {"OK", "CANCELLED"} == set(CODES)
