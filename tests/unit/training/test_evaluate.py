"""The measures, on features whose figures are known."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from regard_training.evaluate import Reference, category_accuracy, measure, pixels, ranks_of_sources
from regard_training.held_out import made_from


def test_ranks_count_the_nearer_ones():
    """The rank of a query's source is one more than the number of pictures nearer to it."""
    gallery = np.eye(3)
    queries = np.array([[1.0, 0.1, 0.0], [0.9, 0.5, 0.0], [0.9, 0.8, 0.1]])
    assert ranks_of_sources(queries, gallery).tolist() == [1, 2, 3]


def test_categories_are_found_by_the_five_nearest():
    """Two tight groups of six are told apart; a stray of one category among the other is not."""
    around = np.random.default_rng(0).normal(0, 0.01, (12, 4))
    features = np.repeat(np.eye(2, 4), 6, axis=0) + around
    categories = ["a"] * 6 + ["b"] * 6
    assert category_accuracy(features, categories) == 1
    assert category_accuracy(features, ["b", *categories[1:]]) == pytest.approx(11 / 12)


@pytest.fixture(scope="module")
def data():
    random = Random(0)
    pictures = []
    for _ in range(8):
        small = Image.frombytes("RGB", (3, 3), random.randbytes(27))
        pictures.append(small.resize((224, 224), Image.Resampling.NEAREST))
    return made_from(pictures, ["x", "y"] * 3, (0, 1))


def test_queries_follow_their_seed(data):
    """Two seeds give different queries of the same pictures, as many each."""
    assert data.queries.shape == (2, *data.pictures.shape)
    assert not np.array_equal(data.queries[0], data.queries[1])


def test_a_network_is_measured_against_the_teacher(data):
    """The teacher agrees with itself; features without classes are measured without agreement of classes."""

    def teacher(images):
        features = images.reshape(len(images), -1)[:, ::997].astype(float)
        return features, features

    reference = Reference(teacher(data.pictures), data.queries[0], teacher(data.queries[0])[0])
    figures = measure(teacher, data, reference)
    assert (figures.teacher_top1, figures.teacher_top5) == (1, 1)
    assert figures.feature_cosine > 0.5
    assert 0 <= figures.recall_at_1 <= figures.mean_average_precision <= 1
    plain = measure(pixels(4), data, reference)
    assert (plain.teacher_top1, plain.teacher_top5) == (None, None)
