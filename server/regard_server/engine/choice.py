"""Which mode runs a model: the fastest whose embeddings stay close enough to float32.

Every candidate runs the sample photographs. Its embeddings' cosine with the eager float32 ones must reach both
bounds; of those the one with the most images a second wins, but only by a clear margin over an earlier one in
the list, so that noise does not decide between equals.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regard_models import ModelBundle
from regard_models.samples import sample_photographs
from regard_server.engine.mode import EAGER, Mode
from regard_server.engine.profile import Measurement, Profile
from regard_server.engine.runner import Runner
from regard_server.images import ImageLimits, decode
from regard_server.work import BatchKey

# How long a candidate is timed at each batch size, after one run that is not.
_TIMED_S = 0.25
_CLEARLY = 1.05
_SIZES = (1, 8)
_LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How close embeddings must be to float32: cosines over the sample photographs."""

    mean: float
    worst: float


DEFAULT_BOUNDS = Bounds(0.999, 0.995)


def choose(
    bundle: ModelBundle,
    modes: Sequence[Mode],
    build: Callable[[Mode], Runner],
    bounds: Bounds,
    logger: logging.Logger,
) -> Profile:
    """Measure every mode and choose one; eager float32 where no other is close enough.

    Raises:
        ValueError: there is no mode to choose from.
    """
    if not modes:
        raise ValueError("no engine fits the settings on this machine")
    photographs = _photographs(bundle)
    reference = _embed(build(EAGER), bundle, photographs)
    measured = []
    for mode in modes:
        measurement = _measure(mode, build(mode), bundle, photographs, reference)
        logger.debug("%s", measurement)
        measured.append(measurement)
    chosen: Measurement | None = None
    for each in measured:
        close = each.cosine_mean >= bounds.mean and each.cosine_worst >= bounds.worst
        if close and (chosen is None or each.images_per_s > _CLEARLY * chosen.images_per_s):
            chosen = each
    return Profile(chosen.mode if chosen else EAGER, tuple(measured))


def _measure(
    mode: Mode,
    runner: Runner,
    bundle: ModelBundle,
    photographs: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.float32],
) -> Measurement:
    found = _embed(runner, bundle, photographs)
    cosines = (found * reference).sum(axis=1) / (
        np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1) + 1e-30
    )
    rates = {size: size / _seconds(runner, bundle, photographs[:size]) for size in _SIZES}
    return Measurement(mode, max(rates.values()), 1 / rates[1], float(cosines.mean()), float(cosines.min()))


def _seconds(runner: Runner, bundle: ModelBundle, batch: npt.NDArray[np.uint8]) -> float:
    """Return the median time of a batch."""
    _embed(runner, bundle, batch)
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < _TIMED_S:
        start = time.perf_counter()
        _embed(runner, bundle, batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _embed(runner: Runner, bundle: ModelBundle, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    prepared = bundle.preprocessing
    key = BatchKey(bundle.name, "pixels", prepared.height, prepared.width, "pooled")
    return runner.run(key, pictures, ("embedding",))["embedding"]


def _photographs(bundle: ModelBundle) -> npt.NDArray[np.uint8]:
    """Return the sample photographs at the model's input size, (12, H, W, 3)."""
    return np.stack(
        [decode(path.read_bytes(), _LIMITS, bundle.preprocessing) for path in sample_photographs()]
    )
