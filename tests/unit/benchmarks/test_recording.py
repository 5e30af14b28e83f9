"""What was recorded is read as it was written, and service times are drawn from it."""

import random
from pathlib import Path

import pytest
import recording
from recording import Recorded, Recording

TRACES = Path(recording.__file__).parent / "traces"
CALLS = [
    Recorded(0.0, "small", 0.25, 2, 0.010),
    Recorded(0.001, "small", 1.0, 2, 0.010),  # of the same batch
    Recorded(0.020, "small", 0.25, 2, 0.014),
    Recorded(0.021, "small", 0.25, 4, 0.030),
    Recorded(0.030, "small", 0.25),
    Recorded(0.040, "large", 2.0, 1, 0.5),
]


def test_a_file_holds_what_was_recorded(tmp_path):
    """What is written and read again is the same, and remarks are no calls."""
    path = tmp_path / "trace.csv"
    Recording(CALLS).save(path, ["a machine", "a command, with a comma"])
    assert Recording.load(path).calls == CALLS
    assert path.read_text().startswith("# a machine\n# a command, with a comma\narrived_ms,")


def test_a_batch_counts_once_however_many_rode_in_it():
    """Calls of one batch are one sample of its size."""
    assert Recording(CALLS).batches == {"small": {2: [0.010, 0.014], 4: [0.030]}, "large": {1: [0.5]}}


def test_service_times_are_those_of_the_size():
    """A size that came up is drawn from; another is the nearest in proportion to the line between medians."""
    recorded = Recording(CALLS)
    chance = random.Random(0)
    assert {recorded.draw("small", 2, chance) for _ in range(50)} == {0.010, 0.014}
    assert recorded.draw("small", 5, chance) == pytest.approx(0.030 * 5 / 4)
    medians_of_three = (0.012 + 0.030) / 2
    drawn = {round(recorded.draw("small", 3, chance), 6) for _ in range(50)}
    assert drawn == {round(each * medians_of_three / 0.012, 6) for each in (0.010, 0.014)}


def test_a_policy_is_told_what_the_largest_batch_costs():
    """Costs are medians, and the largest batch that may be goes at the rate of the largest that was."""
    costs = Recording(CALLS).costs("small", 8)
    assert costs == {2: pytest.approx(0.012), 4: 0.030, 8: pytest.approx(0.060)}


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.csv")), ids=lambda path: path.name)
def test_a_trace_that_is_kept_can_be_replayed(path):
    """The traces in the repository are in order, say how they were made, and have batches of every kind."""
    kept = Recording.load(path)
    times = [call.arrived_s for call in kept.calls]
    assert times == sorted(times)
    assert "record.py" in path.read_text().splitlines()[1]
    assert {call.kind for call in kept.calls} == set(kept.batches)
    assert path.stat().st_size < 200_000
