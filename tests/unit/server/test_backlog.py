"""The backlog: what is kept is what counting and summing up anew would give."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_server.backlog import Backlog
from regard_server.cost import CostModel

LIMIT = 4
KEYS = ("small", "large", "unknown")

# Whole slots, so that nobody is counted for who is due within the same one but later; and whoever is never late.
DEADLINES = st.sampled_from([0.0, 0.5, 1.0, 1000.0, math.inf])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KEYS), st.integers(1, 9), DEADLINES),
        st.tuples(st.just("undo"), st.sampled_from(KEYS), st.integers(1, 9), DEADLINES),
        st.tuples(st.just("learn"), st.sampled_from(KEYS[:2]), st.integers(1, LIMIT), st.none()),
        st.tuples(st.just("ask"), st.sampled_from(KEYS), st.none(), DEADLINES),
    )
)


@given(EVENTS)
def test_what_is_kept_is_what_counting_anew_gives(events):
    """Whatever comes, goes and is learnt between two questions, the answer is that of the counts and costs of now."""
    costs = CostModel()
    backlog = Backlog(lambda _key: LIMIT, costs)
    due = Counter()
    for what, key, number, deadline in events:
        match what:
            case "change":
                backlog.change(key, deadline, number)
                due[deadline, key] += number
            case "undo":
                if fewer := min(number, due[deadline, key]):
                    backlog.change(key, deadline, -fewer)
                    due[deadline, key] -= fewer
            case "learn":
                costs.observe(key, number, 0.001 * number * number)
                backlog.forget(key)
            case _:
                others = {**counted(due), key: 0}
                anew = sum(costs.backlog(each, count, LIMIT) for each, count in others.items())
                assert backlog.seconds_beside(key) == pytest.approx(anew, abs=1e-12)
                first = counted({when: count for when, count in due.items() if when[0] <= deadline})
                found = backlog.due_by(deadline)
                assert (counted(due) if found is None else found) == first
    assert bool(backlog) == any(due.values())
    assert all(backlog.count(key) == counted(due).get(key, 0) for key in KEYS)


def counted(due):
    """How many there are of each kind that there are any of."""
    counts = Counter()
    for (_, key), count in due.items():
        counts[key] += count
    return dict(+counts)


def test_nothing_is_looked_through_for_whoever_is_due_last():
    """Where all have as much time, as usual, everybody is ahead, and that is known without a look at each."""
    backlog = Backlog(lambda _key: LIMIT, CostModel())
    for number in range(100):
        backlog.change("small", float(number), 1)
    backlog._due = {None: 1}  # a look at it would stumble
    assert backlog.due_by(99.0) is None
    assert backlog.due_by(200.0) is None
