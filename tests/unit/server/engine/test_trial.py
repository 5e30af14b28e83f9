"""Modes measured in turns: what is timed, what is left out, and what a disturbed machine makes of it."""

import logging

import numpy as np
import pytest

from regard_models import load_bundle
from regard_server.engine import Mode
from regard_server.engine.mode import EAGER, FOLDED
from regard_server.engine.trial import measure

LOGGER = logging.getLogger("engine")
FAST, FASTER = Mode("folded", "bfloat16"), Mode("openvino", "bfloat16")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("resnet_tiny")


class Machine:
    """A clock that runners move on, and what they were asked to run."""

    def __init__(self):
        self.now = 0.0
        self.slowness = 1.0
        self.batches = []

    def clock(self):
        return self.now


class Runner:
    """Gives embeddings that are turned by so much, after so many seconds an image."""

    def __init__(self, machine, mode, seconds, turn=0.0, largest=1000):
        self._machine, self._mode = machine, mode
        self._seconds, self._turn, self._largest = seconds, turn, largest

    def run(self, _key, batch, _outputs):
        if len(batch) > self._largest:
            raise RuntimeError("out of memory")
        self._machine.batches.append((self._mode, len(batch)))
        self._machine.now += self._seconds * len(batch) * self._machine.slowness
        angle = np.full(len(batch), self._turn, np.float32)
        return {"embedding": np.stack([np.cos(angle), np.sin(angle)], axis=1)}


def run(bundle, runners, *, machine=None, **options):
    machine = machine or Machine()
    return machine, measure(
        bundle,
        list(runners),
        lambda mode: Runner(machine, mode, *runners[mode]),
        logger=LOGGER,
        clock=machine.clock,
        **{"max_batch": 8, **options},
    )


def test_a_measurement_tells_speed_and_closeness(bundle):
    """Images a second at the best size, seconds of one alone, and cosines with eager float32."""
    _, found = run(bundle, {EAGER: (0.02,), FAST: (0.0125, 0.1)})
    eager, fast = found.measured
    assert (eager.mode, fast.mode) == (EAGER, FAST)
    assert eager.images_per_s == pytest.approx(50)
    assert eager.alone_s == pytest.approx(0.02)
    assert eager.cosine_worst == pytest.approx(1, abs=1e-9)
    assert fast.images_per_s == pytest.approx(80)
    assert fast.cosine_mean == pytest.approx(np.cos(0.1), abs=1e-6)


def test_eager_float32_is_measured_even_if_it_was_not_asked_for(bundle):
    """It is what measurements of other days are compared by."""
    _, found = run(bundle, {FAST: (0.01,), EAGER: (0.01,)})
    assert {each.mode for each in found.measured} == {EAGER, FAST}
    machine = Machine()
    found = measure(
        bundle,
        [FAST],
        lambda mode: Runner(machine, mode, 0.01),
        max_batch=8,
        logger=LOGGER,
        clock=machine.clock,
    )
    assert [each.mode for each in found.measured] == [EAGER, FAST]


def test_a_slow_spell_is_everybodys(bundle):
    """Modes take turns, so that one that is measured while the machine is slow does not lose by it."""

    class Fitful(Machine):
        """Twice as slow every other second."""

        def clock(self):
            self.slowness = 1 + int(self.now) % 2
            return self.now

    for delay in (0.0, 0.4, 0.8, 1.2):
        machine = Fitful()
        machine.now = delay
        _, found = run(bundle, {EAGER: (0.01,), FOLDED: (0.01,), FAST: (0.01,)}, machine=machine, timed_s=2.0)
        speeds = [each.images_per_s for each in found.measured]
        assert max(speeds) / min(speeds) < 1.1


def test_larger_batches_are_tried_as_the_time_allows(bundle):
    """The largest batch if the fastest runs it in a quarter of the time, else the next power of two that fits."""
    for seconds, largest in ((0.0009, 100), (0.0015, 64), (0.006, 16), (0.05, 8)):
        machine, _ = run(bundle, {EAGER: (seconds,), FAST: (seconds,)}, max_batch=100, timed_s=0.4)
        assert max(size for _, size in machine.batches) == largest
    machine, _ = run(bundle, {EAGER: (0.001,)}, max_batch=4)
    assert {size for _, size in machine.batches} == {1, 4}


def test_a_batch_that_memory_does_not_hold_disqualifies_nobody(bundle):
    """A mode is judged by the sizes that it can run."""
    _, found = run(bundle, {EAGER: (0.001,), FAST: (0.0005, 0.0, 8)}, max_batch=32)
    assert [each.mode for each in found.measured] == [EAGER, FAST]
    assert not found.failed


def test_those_left_far_behind_are_timed_twice(bundle):
    """Twice as slow as one that is as exact: neither bounds nor noise would choose it. A more exact one stays."""
    machine, found = run(bundle, {EAGER: (0.02,), FAST: (0.05, 0.1), FASTER: (0.005, 0.1)})
    assert [each.mode for each in found.measured] == [EAGER, FAST, FASTER]
    timed = {mode: sum(each == (mode, 1) for each in machine.batches) for mode in (EAGER, FAST)}
    assert timed[FAST] == 1 + 2  # the first one makes ready
    assert timed[EAGER] > 3


def test_a_mode_that_cannot_run_a_network_is_passed_over(bundle, caplog):
    """An engine that lacks an operation costs a line in the log, not the server."""
    machine = Machine()

    def build(mode):
        if mode == FASTER:
            raise RuntimeError("an operation is missing")
        return Runner(machine, mode, 0.01)

    found = measure(bundle, [FAST, FASTER], build, max_batch=8, logger=LOGGER, clock=machine.clock)
    assert [each.mode for each in found.measured] == [EAGER, FAST]
    assert found.failed == (FASTER,)
    assert "cannot be run by openvino bfloat16: an operation is missing" in caplog.text


def test_a_mode_that_fails_while_it_is_timed_is_passed_over(bundle, caplog):
    """The others are measured all the same."""
    machine = Machine()

    class Failing(Runner):
        left = 4

        def run(self, *arguments):
            self.left -= 1
            if not self.left:
                raise RuntimeError("out of memory")
            return super().run(*arguments)

    def build(mode):
        return (Failing if mode == FAST else Runner)(machine, mode, 0.01)

    found = measure(bundle, [FAST, FASTER], build, max_batch=8, logger=LOGGER, clock=machine.clock)
    assert [each.mode for each in found.measured] == [EAGER, FASTER]
    assert found.failed == (FAST,)
    assert "cannot be run by folded bfloat16: out of memory" in caplog.text
