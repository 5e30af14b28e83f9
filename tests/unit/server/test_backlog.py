"""The backlog: the kept sum is what summing up anew would give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard_server.backlog import Backlog
from regard_server.cost import CostModel

LIMIT = 4
KEYS = ("small", "large", "unknown")

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(KEYS), st.integers(1, 9)),
        st.tuples(st.just("undo"), st.sampled_from(KEYS), st.integers(1, 9)),
        st.tuples(st.just("learn"), st.sampled_from(KEYS[:2]), st.integers(1, LIMIT)),
        st.tuples(st.just("ask"), st.sampled_from(KEYS), st.none()),
    )
)


@given(EVENTS)
def test_the_kept_sum_is_that_of_summing_up_anew(events):
    """Whatever comes, goes and is learnt between two questions, the answer is that of the counts and costs of now."""
    costs = CostModel()
    backlog = Backlog(lambda _key: LIMIT, costs)
    counts = dict.fromkeys(KEYS, 0)
    for what, key, number in events:
        match what:
            case "change":
                backlog.change(key, number)
                counts[key] += number
            case "undo":
                fewer = min(number, counts[key])
                if fewer:
                    backlog.change(key, -fewer)
                    counts[key] -= fewer
            case "learn":
                costs.observe(key, number, 0.001 * number * number)
                backlog.forget(key)
            case _:
                others = {**counts, key: 0}
                anew = sum(costs.backlog(each, count, LIMIT) for each, count in others.items())
                assert backlog.seconds_beside(key) == pytest.approx(anew, abs=1e-12)
    assert bool(backlog) == any(counts.values())
    assert all(backlog.count(key) == counts[key] for key in KEYS)
