"""A line: whose turn it is, and who stands before whom."""

from hypothesis import given
from hypothesis import strategies as st

from regard_server.line import Line

URGENCIES = st.tuples(st.integers(0, 2), st.sampled_from([1.0, 2.0, 3.0]))


@given(st.lists(URGENCIES), st.data())
def test_turns_go_by_class_then_deadline_then_arrival_and_every_tenth_to_the_last_class(urgencies, data):
    """Whoever leaves is not served, and everybody else is, once."""
    line = Line()
    places = [line.join(*urgency, object()) for urgency in urgencies]
    leavers = data.draw(st.sets(st.sampled_from(places))) if places else set()
    assert all(line.leave(place) for place in leavers)
    assert not any(line.leave(place) for place in leavers)
    waiting = sorted(set(places) - leavers, key=lambda place: place[:3])
    turn = 0
    while place := line.first():
        turn += 1
        last = waiting[-1][0]
        expected = next(each for each in waiting if turn % 10 or each[0] == last)
        assert place is expected
        waiting.remove(place)
        line.serve(place)
    assert not waiting
    assert not line


@given(st.lists(URGENCIES), URGENCIES)
def test_a_newcomer_stands_behind_whoever_is_as_urgent(urgencies, newcomer):
    """Those before him are the more urgent ones, and those that came before."""
    line = Line()
    for urgency in urgencies:
        line.join(*urgency, None)
    assert line.ahead(*newcomer) == sum(urgency <= newcomer for urgency in urgencies)
