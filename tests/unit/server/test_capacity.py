"""How large batches may be where memory was short."""

from regard_server.capacity import BatchCapacity


def test_nothing_is_lowered_where_memory_was_never_short():
    """Fitting batches change nothing."""
    capacity = BatchCapacity(32)
    capacity.fitted("k", 32)
    assert capacity("k") == 32


def test_a_batch_that_did_not_fit_halves_its_kind_only():
    """The next batch is half as large, never none, and other kinds keep theirs."""
    capacity = BatchCapacity(32)
    capacity.exhausted("k", 32)
    assert (capacity("k"), capacity("other")) == (16, 32)
    for size in (16, 8, 4, 2, 1, 1):
        capacity.exhausted("k", size)
    assert capacity("k") == 1


def test_full_batches_that_fit_raise_it_again_step_by_step():
    """After many of them a quarter more is tried, up to the setting; smaller ones prove nothing."""
    capacity = BatchCapacity(32)
    capacity.exhausted("k", 32)
    for _ in range(1000):
        capacity.fitted("k", 15)
    assert capacity("k") == 16
    seen = []
    for _ in range(1000):
        capacity.fitted("k", capacity("k"))
        seen.append(capacity("k"))
    assert list(dict.fromkeys(seen)) == [16, 20, 25, 31, 32]


def test_the_number_of_kinds_is_bounded():
    """Callers choose tensor shapes; the memory of them does not grow for ever."""
    capacity = BatchCapacity(32)
    for shape in range(5000):
        capacity.exhausted(shape, 32)
    assert len(capacity._lowered) <= 1024
