"""How fast modes are, and how close to the reference: all of them in turns, on the sample photographs.

    round 1   eager ▒ ▒▒▒   folded ▒ ▒▒▒   openvino ▒ ▒▒▒      alone, and eight together
    round 2   openvino ▒ ▒▒▒   folded ▒ ▒▒▒   eager ▒ ▒▒▒      the other way round
    round 3   folded ▒ ▒▒▒ ▒▒▒▒▒▒   openvino ▒ ▒▒▒ ▒▒▒▒▒▒      and as many as there is time for, without those that
    …                                                          are left far behind

A machine that others share is a third slower from one second to the next. In turns every mode has its share of that,
where one after another would make winners of the lucky; and each is told by its shortest time of all rounds, as others
only ever lengthen it.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from regard_models import ModelBundle
from regard_models.samples import sample_photographs
from regard_server.engine.mode import EAGER, Mode
from regard_server.engine.profile import Measurement, Profile
from regard_server.engine.runner import Runner
from regard_server.images import ImageLimits, decode
from regard_server.work import BatchKey

QUICK_S = 0.4
"""What each mode is timed for while a server waits to start."""
PATIENT_S = 4.0
"""Likewise where nobody waits."""
_ROUNDS = 4
"""At least, however long they take."""
_HEATS = 2
"""Rounds in which everybody takes part. After one, a busy machine made eager torch seven times as fast as folded."""
_TOGETHER = 8
_HOPELESS = 2.0
"""A mode so many times slower than one as exact, alone and in company, will be chosen by no bounds and no noise."""
_AS_EXACT = 1e-6
"""What cosines of equally exact modes differ by."""
_LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)


def measure(
    bundle: ModelBundle,
    modes: Sequence[Mode],
    build: Callable[[Mode], Runner],
    *,
    max_batch: int,
    logger: logging.Logger,
    timed_s: float = QUICK_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Measure modes of a network, and eager float32, by which measurements of other days are compared.

    A mode that cannot run this network is told of and noted as such.

    Args:
        bundle: the network.
        modes: which.
        build: makes a mode's runner.
        max_batch: the largest batch.
        logger: where modes are told of that cannot run it.
        timed_s: how long each is timed; no more is spent on batches of more than eight than this allows.
        clock: seconds.
    """
    trial = _Trial(bundle, max_batch, timed_s, clock)
    reference = trial.embed(build(EAGER))
    entrants: list[_Entrant] = []
    errors: dict[Mode, Exception] = {}
    for mode in dict.fromkeys((EAGER, *modes)):
        try:
            runner = build(mode)
            cosines = _cosines(trial.embed(runner), reference)
            trial.run(runner, 1)  # whatever a runner makes for a batch size is made by its first batch
        except Exception as reason:  # noqa: BLE001 - an engine that cannot run this network is no candidate, whatever it says
            errors[mode] = reason
        else:
            entrants.append(_Entrant(mode, runner, float(cosines.mean()), float(cosines.min())))
    trial.time(entrants)
    errors |= {each.mode: each.error for each in entrants if each.error}
    for mode, error in errors.items():
        logger.warning("%s cannot be run by %s: %s", bundle.name, mode, error)
    measured = tuple(each.measurement() for each in entrants if not each.error)
    for measurement in measured:
        logger.debug("%s", measurement)
    return Profile(measured, tuple(errors))


@dataclass(eq=False)
class _Entrant:
    """A mode among those that are measured, and its times of each round, by batch size."""

    mode: Mode
    runner: Runner
    cosine_mean: float
    cosine_worst: float
    times: dict[int, list[float]] = field(default_factory=dict)
    error: Exception | None = None

    def images_per_s(self, size: int) -> float:
        return size / min(self.times[size])

    def outdoes(self, other: "_Entrant") -> bool:
        """Tell whether this is at least as exact and so much faster that nothing will have the other one chosen."""
        exact = (
            self.cosine_mean >= other.cosine_mean - _AS_EXACT
            and self.cosine_worst >= other.cosine_worst - _AS_EXACT
        )
        return exact and all(
            self.images_per_s(size) > _HOPELESS * other.images_per_s(size) for size in other.times
        )

    def measurement(self) -> Measurement:
        fastest = max(self.images_per_s(size) for size in self.times)
        return Measurement(self.mode, fastest, 1 / self.images_per_s(1), self.cosine_mean, self.cosine_worst)


class _Trial:
    """The sample photographs as a model wants them, and how long runners take for them."""

    def __init__(
        self, bundle: ModelBundle, max_batch: int, timed_s: float, clock: Callable[[], float]
    ) -> None:
        prepared = bundle.preprocessing
        self._key = BatchKey(bundle.name, "pixels", prepared.height, prepared.width, "pooled")
        self._max_batch = max_batch
        self._together = min(_TOGETHER, max_batch)
        self._timed_s = timed_s
        self._clock = clock
        self._photographs = np.stack(
            [decode(path.read_bytes(), _LIMITS, prepared) for path in sample_photographs()]
        )

    def embed(self, runner: Runner) -> npt.NDArray[np.float32]:
        """Return the embeddings of all photographs, (12, D)."""
        parts = [
            self._run(runner, self._photographs[start : start + self._together])
            for start in range(0, len(self._photographs), self._together)
        ]
        return np.concatenate(parts)

    def run(self, runner: Runner, size: int) -> None:
        """Run a batch of photographs."""
        self._run(runner, self._batch(size))

    def time(self, entrants: Sequence[_Entrant]) -> None:
        """Time all of them in turns; after two rounds only those that may be chosen, in a larger batch, too."""
        for entrant in entrants:
            entrant.times = {size: [] for size in sorted({1, self._together})}
        began = self._clock()
        running = list(entrants)
        for number in count():
            if number >= _ROUNDS and self._clock() - began >= self._timed_s * len(running):
                return
            if number == _HEATS:
                rivals = [each for each in running if not any(other.outdoes(each) for other in running)]
                self._enlarge(rivals)
                # Eager float32 stays in any case, to compare other days by.
                running = [each for each in running if each in rivals or each.mode == EAGER]
            running = self._round(running[::-1])

    def _round(self, entrants: Sequence[_Entrant]) -> list[_Entrant]:
        """Time each once at each of its batch sizes; return those that did not fail."""
        for entrant in entrants:
            try:
                for size, times in entrant.times.items():
                    times.append(self._seconds(entrant.runner, size))
            except Exception as error:  # noqa: BLE001 - for want of memory, perhaps, beside all the others
                entrant.error = error
        return [each for each in entrants if not each.error]

    def _enlarge(self, entrants: Sequence[_Entrant]) -> None:
        """Let them run the largest batch that the fastest has the time for."""
        fastest = max((entrant.images_per_s(self._together) for entrant in entrants), default=0.0)
        size = min(self._max_batch, math.floor(fastest * self._timed_s / 4))
        if size < self._max_batch:
            size = 1 << size.bit_length() >> 1  # a power of two, to which compiled networks are padded
        if size <= self._together:
            return
        for entrant in entrants:
            try:
                self.run(entrant.runner, size)
            except Exception:  # noqa: BLE001, S112 - memory does not hold it, perhaps; smaller ones were fine
                continue
            entrant.times[size] = []

    def _seconds(self, runner: Runner, size: int) -> float:
        """Return the shortest time of a batch within a short while."""
        batch = self._batch(size)
        times: list[float] = []
        began = self._clock()
        while not times or self._clock() - began < self._timed_s / 3 / _ROUNDS:
            start = self._clock()
            self._run(runner, batch)
            times.append(self._clock() - start)
        return min(times)

    def _batch(self, size: int) -> npt.NDArray[np.uint8]:
        """Return photographs, some of them more than once if there are not so many."""
        return self._photographs[np.arange(size) % len(self._photographs)]

    def _run(self, runner: Runner, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return runner.run(self._key, pictures, ("embedding",))["embedding"]


def _cosines(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, D), (N, D) -> (N,)."""
    one, other = found.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny))
