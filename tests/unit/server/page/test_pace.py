"""The form's turns, with the test's own clock."""

import pytest

from regard_server.page.pace import Pace, TooFastError


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def take(pace):
    with pace.turn():
        pass


def test_turns_are_saved_up_and_fill_steadily(clock):
    """A burst is let through, then the rate holds, and the refusal says when there will be a turn."""
    pace = Pace(rate=0.5, burst=3, at_once=9, clock=clock)
    for _ in range(3):
        take(pace)
    with pytest.raises(TooFastError, match="again in 2 s") as refused:
        take(pace)
    clock.now_s += refused.value.retry_after_s
    take(pace)
    with pytest.raises(TooFastError):
        take(pace)


def test_no_more_than_the_burst_is_saved(clock):
    """A quiet night does not buy a storm."""
    pace = Pace(rate=1, burst=2, at_once=9, clock=clock)
    clock.now_s += 1000
    take(pace)
    take(pace)
    with pytest.raises(TooFastError):
        take(pace)


def test_so_many_at_a_time(clock):
    """A turn that is being taken blocks others, costs them nothing, and is given back whatever happens."""
    pace = Pace(rate=1, burst=2, at_once=1, clock=clock)

    def fail():
        with pytest.raises(TooFastError):
            take(pace)
        raise KeyError

    with pytest.raises(KeyError), pace.turn():
        fail()
    take(pace)
