"""What a batch costs: estimates that are asked for every decision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_server.cost import CostModel, Likeness
from regard_server.work import BatchKey, likeness


def costs(*seen):
    model = CostModel()
    for size, seconds in seen:
        model.observe("k", size, seconds)
    return model


def test_what_was_never_seen_costs_nothing():
    """Nobody is refused on a guess."""
    assert CostModel().seconds("k", 8) == 0.0


def alike(key):
    """Say that "small2" and "large8" are of one family each, and all of one; a digit is a kind's weight."""
    return Likeness((key[:-1], "all"), float(key[-1]))


def test_a_kind_that_was_never_seen_costs_what_the_nearest_one_does():
    """Callers choose shapes: a new one is not free, but as dear as others of its family, or as any, by weight."""
    model = CostModel(alike)
    model.observe("small2", 1, 1.0)
    assert [model.seconds("small2", 1), model.seconds("small4", 1), model.seconds("large8", 3)] == [1, 2, 12]
    model.observe("large8", 1, 3.0)
    assert [model.seconds("small4", 1), model.seconds("large4", 1), model.seconds("other8", 1)] == [2, 1.5, 3]


def test_the_first_batch_of_a_new_kind_at_most_doubles_what_was_expected():
    """It may build a network; that is not what the next one costs."""
    model = CostModel(alike)
    model.observe("small2", 1, 1.0)
    model.observe("large8", 1, 100.0)
    assert model.seconds("large8", 1) == 8.0
    model.observe("large4", 1, 2.0)
    assert model.seconds("large4", 1) == 2.0


def test_a_relative_that_was_forgotten_is_not_asked():
    """However many kinds there were, an estimate is of one that is known, or 0."""
    model = CostModel(lambda key: Likeness((key % 2,), 1.0))
    model.observe(1, 1, 1.0)
    for key in range(2, 5000, 2):
        model.observe(key, 1, 2.0)
    assert [model.seconds(5001, 1), model.seconds(5000, 1)] == [0.0, 2.0]


def test_batches_are_like_those_of_their_form_and_class_then_like_any_of_their_model():
    """By the pixels; where only usual batches were seen, one of maps or tensors may cost four times as much."""
    usual = BatchKey("a", "pixels", 32, 32, "pooled")
    model = CostModel(likeness)
    model.observe(usual, 1, 1.0)
    tensor = usual._replace(form="tensor", height=64)
    assert model.seconds(tensor, 1) == model.seconds(tensor._replace(cost="maps"), 1) == 8.0
    assert model.seconds(usual._replace(cost="exact"), 1) == 4.0
    assert model.seconds(tensor._replace(model="b"), 1) == 0.0
    model.observe(tensor, 1, 2.0)
    assert model.seconds(tensor._replace(width=64), 1) == 4.0
    assert model.seconds(tensor._replace(cost="maps"), 1) == 2.0


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(1, 1.0), (2, 1.5), (3, 2.0), (4, 2.5), (5, 3.0), (7, 4.0)],
)
def test_between_and_beyond_known_sizes_it_is_a_straight_line(size, seconds):
    """Sizes that were not seen follow their neighbours."""
    assert costs((1, 1.0), (3, 2.0), (5, 3.0)).seconds("k", size) == pytest.approx(seconds)


def test_fewer_than_the_smallest_known_size_are_no_cheaper():
    """A batch of one is not promised for less than was ever seen."""
    assert costs((4, 2.0), (8, 3.0)).seconds("k", 1) == 2.0


def test_a_single_known_size_is_scaled_up_in_proportion():
    """With one point there is no line; more images cost at most their share more."""
    assert costs((4, 2.0)).seconds("k", 8) == 4.0


def test_the_first_batch_of_a_size_between_others_teaches_nothing():
    """Disturbed, or slow as first batches are, it would keep a device from batches of 24, and callers out."""
    model = costs((16, 4.0), (32, 8.0))
    model.observe("k", 24, 12.0)
    assert [model.seconds("k", size) for size in (16, 24, 32)] == [4.0, 6.0, 8.0]
    model.observe("k", 24, 12.0)
    assert model.seconds("k", 24) > 6.0


def test_one_outlier_at_most_nearly_doubles_an_estimate():
    """A pause of the machine does not make the server refuse everybody."""
    model = costs((1, 1.0))
    model.observe("k", 1, 1000.0)
    assert 1.0 < model.seconds("k", 1) < 2.0


@given(st.lists(st.floats(0.5, 1.5), max_size=300))
def test_an_estimate_stays_in_the_range_of_what_was_seen(samples):
    """However it fluctuates, it is never beyond the dearest sample doubled, nor far below the cheapest."""
    model = costs((1, 1.0))
    for sample in samples:
        model.observe("k", 1, sample)
    low, high = min([1.0, *samples]), max([1.0, *samples])
    assert 0.999 * low * low / high <= model.seconds("k", 1) <= 2.001 * high


@given(st.integers(0, 1 << 32))
def test_most_batches_cost_no_more_than_was_estimated(seed):
    """Estimates err on the dear side, but not by far: promises are kept, and the device is not left idle."""
    chance = np.random.default_rng(seed)
    model, kept = costs((1, 1.0), (8, 4.0), (32, 16.0)), 0
    for number in range(600):
        size = int(chance.choice([1, 8, 32]))
        seconds = size / 2 * chance.lognormal(0.0, 0.1)
        estimate = model.seconds("k", size)
        kept += number >= 200 and seconds <= estimate
        model.observe("k", size, seconds)
    assert kept >= 0.6 * 400
    assert all(size / 2 * 0.8 <= model.seconds("k", size) <= size / 2 * 1.7 for size in (1, 8, 32))


def test_what_slows_batches_of_one_size_slows_all():
    """A neighbour on the device is noticed within a few batches, for sizes too that have not come up since."""
    model = costs((1, 1.0), (8, 4.0), (32, 16.0))
    for _ in range(10):
        model.observe("k", 8, 4.0 * 1.5)
    assert model.seconds("k", 32) >= 16.0 * 1.3
    for _ in range(100):
        model.observe("k", 8, 4.0)
    assert model.seconds("k", 32) <= 16.0 * 1.1


def test_a_backlog_is_full_batches_and_a_rest():
    """Ten entries in batches of four are two full ones and one of two."""
    model = costs((1, 1.0), (2, 1.5), (4, 2.0))
    assert model.backlog("k", 10, 4) == pytest.approx(2 * 2.0 + 1.5)
    assert model.backlog("k", 0, 4) == 0.0


@given(limit=st.floats(0, 20), most=st.integers(1, 64))
def test_the_largest_size_within_a_limit_is_found(limit, most):
    """Bisection finds what trying all sizes finds."""
    model = costs((1, 1.0), (8, 4.5), (32, 12.0))
    expected = max((size for size in range(1, most + 1) if model.seconds("k", size) <= limit), default=0)
    assert model.largest_within("k", limit, most) == expected


def test_the_number_of_keys_is_bounded_and_the_busiest_stay():
    """Callers choose tensor shapes; a thousand of them do not push out what is used all the time."""
    model = costs((1, 1.0))
    for shape in range(5000):
        model.observe(shape, 1, 1.0)
        model.observe("k", 1, 1.0)
    assert len(model._seen) <= 1024
    assert model.seconds("k", 1) == 1.0
