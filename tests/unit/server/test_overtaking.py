"""Who has had the device lately: by class, by the time that was given, and by images."""

import pytest

from regard_server.overtaking import Overtaking
from regard_server.waiting import Entry

BURSTS = 1.2


def entry(given_s, *, arrived=0.0, size=1, priority=0):
    return Entry("small", None, None, arrived + given_s, priority, arrived, size)


def test_a_batch_is_shared_out_by_images():
    """A message of many that came together took more of the device than a lone picture beside it."""
    overtaking = Overtaking()
    overtaking.served([entry(60.0, size=1), entry(60.0, size=9, priority=1)], 1.0, 0.0)
    assert overtaking.share(1, 60.0, 0.0) == pytest.approx(BURSTS * 0.1 * 1.0 / 5.0)


def test_whoever_is_due_between_two_others_may_have_given_less():
    """Entries are in the order of deadlines, which says nothing of the time that each gave."""
    overtaking = Overtaking()
    batch = [entry(60.0), entry(1.0, arrived=59.5), entry(60.0, arrived=1.0)]
    overtaking.served(batch, 3.0, 60.0)
    assert (overtaking.first, overtaking.first_s) == (0, 4.0)
    assert overtaking.share(0, 60.0, 60.0) == pytest.approx(BURSTS * 1.0 / 5.0)


def test_those_who_gave_about_as_much_do_not_overtake_each_other():
    """Nobody keeps room for his like, and so nobody for anybody where all are alike."""
    overtaking = Overtaking()
    overtaking.served([entry(60.0), entry(50.0)], 3.0, 0.0)
    assert overtaking.share(0, 60.0, 0.0) == 0.0


@pytest.mark.parametrize("given_s", [0.3, 0.5, 0.9, 1.0, 1.9, 2.0, 3.9, 4.0, 60.0])
def test_it_is_known_at_once_whom_nobody_overtakes(given_s):
    """Whoever is of the first class and gives less than `first_s` need not ask for a share: it would be none."""
    overtaking = Overtaking()
    overtaking.served([entry(0.9), entry(60.0), entry(0.1, priority=1)], 3.0, 0.0)
    assert overtaking.first == 0
    assert (given_s >= overtaking.first_s) == (overtaking.share(0, given_s, 0.0) > 0)


def test_what_was_long_ago_is_forgotten_and_nobody_is_left_nothing():
    """The share follows the last seconds, and stays below one."""
    overtaking = Overtaking()
    for second in range(50):
        overtaking.served([entry(1.0)], 1.0, float(second))
    assert overtaking.share(1, 60.0, 49.0) == 0.9
    overtaking.served([entry(60.0, priority=1)], 0.0, 100.0)
    assert overtaking.share(1, 60.0, 100.0) == pytest.approx(0.0, abs=1e-3)


def test_a_clock_that_went_back_forgets_nothing():
    """However far it went."""
    overtaking = Overtaking()
    overtaking.served([entry(1.0)], 1.0, 1e6)
    assert overtaking.share(1, 60.0, 0.0) == overtaking.share(1, 60.0, 1e6)
