"""Who is told of a batch's end when somebody, or something, fails at being told."""

import logging

import numpy as np
import pytest

from regard_server.batcher import Outcome
from regard_server.embeddings import EmbeddingHealth
from regard_server.metrics import Metrics
from regard_server.straight import settle
from regard_server.waiting import Entry
from regard_server.work import BatchKey, Rows

KEY = BatchKey("tiny", "pixels", 4, 4, "pooled")


@pytest.fixture
def metrics():
    logger = logging.getLogger("none")
    return Metrics(EmbeddingHealth(samples_per_s=4, reference_samples=16, folder=None, logger=logger))


def outcome(owner, compute_s=0.002):
    """Return what became of one picture in a batch of two."""
    rows = Rows({"embedding": np.zeros((1, 8), np.float32)}, {})
    return Outcome(Entry(KEY, None, owner, 60.0), rows, 0.001, compute_s, 2)


def test_a_caller_who_cannot_be_told_does_not_cost_another_his_answer(metrics):
    """The others of the batch have theirs; what went wrong is raised after, to be logged."""
    told = []

    def fail(_):
        raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        settle([outcome(fail), outcome(told.append)], metrics)
    assert caught.group_contains(ValueError)
    assert len(told) == 1


def test_figures_that_cannot_be_kept_cost_nobody_his_answer(metrics):
    """Everybody has his, and the error is raised."""
    told = []
    with pytest.raises(TypeError):
        settle([outcome(told.append, compute_s="no time"), outcome(told.append)], metrics)
    assert len(told) == 2
