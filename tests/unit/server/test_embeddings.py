"""Sampling, references and series of the embeddings' health."""

import logging

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from regard_server.embeddings import EmbeddingHealth

LABELS = {"model": "m", "fingerprint": "f"}


class Health:
    """The real thing with a clock that only a test moves."""

    def __init__(self, folder=None, **options):
        self.now = 100.0
        self.lines = []
        logger = logging.Logger("health")  # noqa: LOG001 - one for each
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())
        logger.addHandler(handler)
        given = {"samples_per_s": 4.0, "reference_samples": 32, **options}
        self.health = EmbeddingHealth(**given, folder=folder, logger=logger, clock=lambda: self.now)
        self.registry = CollectorRegistry()
        self.registry.register(self.health)
        self.health.watch("m", "f", 8)

    def send(self, rows, *, every_s=0.25):
        for row in np.asarray(rows, np.float32):
            self.now += every_s
            self.health.offer("m", {"embedding": row[None]})

    def read(self, name):
        list(self.registry.collect())
        return self.registry.get_sample_value(name, LABELS)


def rows(count, centre=0.0, seed=0):
    made = np.random.default_rng(seed).normal(size=(count, 8))
    made[:, 0] += centre
    return made


def test_no_more_are_taken_than_were_asked_for():
    """However many batches there are in a second, so many embeddings are looked at."""
    health = Health()
    health.send(rows(1000), every_s=0.001)
    assert health.read("regard_embedding_norm_count") == 4


def test_what_waits_for_a_scrape_is_bounded():
    """Where nobody scrapes, old samples give way to new ones."""
    health = Health()
    health.send(rows(1000))
    assert health.read("regard_embedding_norm_count") == 256


def test_a_sample_does_not_keep_its_batch():
    """What is kept until the next scrape is a copy of one row, not a view of a batch's outputs."""
    health = Health()
    batch = np.ones((32, 8), np.float32)
    health.health.offer("m", {"embedding": batch[3:5]})
    batch[:] = 7
    assert health.read("regard_embedding_norm_sum") == pytest.approx(np.sqrt(8))


def test_norms_are_summed():
    """Sum and count of lengths, so that the mean of several replicas is that of all their embeddings."""
    health = Health()
    health.send([[3.0, 4.0] + [0.0] * 6, [0.0] * 8])
    assert health.read("regard_embedding_norm_sum") == 5
    assert health.read("regard_embedding_norm_count") == 2


def test_nothing_is_said_of_a_few():
    """Similarity, rank and drift wait for enough samples; the first ones are no verdict."""
    health = Health()
    health.send(rows(15))
    for name in ("similarity", "effective_rank", "drift", "reference_similarity"):
        assert health.read(f"regard_embedding_{name}") is None


def test_drift_is_measured_against_the_first_embeddings():
    """Like the reference there is none; other images show."""
    health = Health()
    health.send(rows(64, centre=3.0))
    assert health.read("regard_embedding_reference_similarity") == pytest.approx(
        health.read("regard_embedding_similarity"), abs=0.1
    )
    assert health.read("regard_embedding_drift") < 0.2
    health.send(rows(128, centre=-3.0, seed=1))
    assert health.read("regard_embedding_drift") > 1.0


def test_zeros_have_no_direction():
    """A network that answers zeros shows in the norm, and breaks nothing."""
    health = Health()
    health.send(np.zeros((64, 8)))
    assert health.read("regard_embedding_norm_sum") == 0
    assert health.read("regard_embedding_norm_count") == 64
    assert health.read("regard_embedding_similarity") is None


def test_replicas_and_restarts_share_a_reference(tmp_path):
    """Whoever finishes first writes it down; the others and later starts measure against that one."""
    first, second = Health(tmp_path), Health(tmp_path)
    first.send(rows(32, centre=3.0))
    second.send(rows(32, centre=-3.0))
    references = [each.read("regard_embedding_reference_similarity") for each in (first, second)]
    later = Health(tmp_path)
    assert references == [later.read("regard_embedding_reference_similarity")] * 2
    assert sum("are the reference" in line for line in (*first.lines, *second.lines, *later.lines)) == 1
    assert second.read("regard_embedding_drift") > 1.0


def test_a_broken_reference_is_reported_and_another_made(tmp_path):
    """A file that cannot be read costs a warning, not the scrape."""
    (tmp_path / "embeddings-f.safetensors").write_bytes(b"nonsense")
    health = Health(tmp_path)
    assert "no reference" in health.lines[0]
    health.send(rows(32))
    assert health.read("regard_embedding_drift") is not None


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    """The reference is then this process' alone."""
    (tmp_path / "file").write_bytes(b"")
    health = Health(tmp_path / "file")
    health.send(rows(32))
    assert health.read("regard_embedding_drift") is not None
    assert "cannot be kept" in health.lines[0]


def test_sampling_can_be_switched_off():
    """With 0 samples a second none is taken, and NaN is still counted."""
    health = Health(samples_per_s=0)
    health.send(rows(100))
    health.health.nonfinite("m")
    assert health.read("regard_embedding_norm_count") == 0
    assert health.read("regard_nonfinite_total") == 1


def test_others_are_not_watched():
    """Outputs without an embedding and models that are not known leave no trace."""
    health = Health()
    health.health.offer("m", {"layer4": np.ones(3)})
    health.health.offer("other", {"embedding": np.ones(3)})
    health.health.nonfinite("other")
    assert health.read("regard_embedding_norm_count") == 0
    assert {sample.labels["model"] for family in health.registry.collect() for sample in family.samples} == {
        "m"
    }
