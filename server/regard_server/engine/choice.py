"""Which mode runs a model: the fastest whose embeddings stay close enough to float32.

Every candidate runs the sample photographs. Its embeddings' cosine with the eager float32 ones must reach both
bounds; of those the one with the most images a second wins, but only by a clear margin over an earlier one in
the list, so that noise does not decide between equals.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from regard_models import ModelBundle
from regard_models.samples import sample_photographs
from regard_server.engine.mode import EAGER, Mode, candidates
from regard_server.engine.options import Bounds, EngineOptions
from regard_server.engine.profile import Measurement, Profile, profile_path
from regard_server.engine.runner import Runner
from regard_server.images import ImageLimits, decode
from regard_server.work import BatchKey

# How long a candidate is timed at each batch size, after one run that is not.
_TIMED_S = 0.25
_CLEARLY = 1.05
_LARGEST = 8
_LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)


def find_profile(
    bundle: ModelBundle,
    device: torch.device,
    options: EngineOptions,
    build: Callable[[Mode], Runner],
    logger: logging.Logger,
    *,
    measure: bool = False,
) -> Profile:
    """Return the mode of a network: the only one there is, the one of the saved profile, or a measured one.

    Args:
        bundle: the network.
        device: where it runs.
        options: what was asked for; a measured profile is kept in their cache.
        build: makes a mode's runner.
        logger: where a profile that cannot be kept is told of.
        measure: whether to measure even where a profile was saved, or there is no choice.

    Raises:
        ValueError: no mode fits the options on this machine.
    """
    modes = candidates(device.type, engine=options.engine, dtype=options.dtype)
    if not modes:
        raise ValueError(
            f"engine {options.engine!r} in {options.dtype} cannot run on {device} here; "
            "is the package that it needs installed?"
        )
    if len(modes) == 1 and not measure:
        return Profile(modes[0], ())
    path: Path | None = None
    with ExitStack() as turn:
        if options.cache:
            path = profile_path(options.cache, bundle, device=str(device), threads=options.threads)
            turn.enter_context(_my_turn(path, logger))
        if path and not measure and (saved := Profile.load(path)) and saved.chosen in modes:
            return saved
        found = choose(
            bundle, modes, build, max_batch=options.max_batch, bounds=options.bounds, logger=logger
        )
        if path:
            try:
                found.save(path)
            except OSError as error:
                logger.warning("the profile cannot be kept: %s", error)
    return found


@contextmanager
def _my_turn(path: Path, logger: logging.Logger) -> Iterator[None]:
    """Let one process at a time look for a profile and measure.

    Replicas that start together on one machine would measure each other's noise and choose differently; so the
    first measures, and the others find its choice.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # its holder's end gives it up, whatever that was
        except OSError as error:
            logger.debug("no turns are taken at measuring: %s", error)
        yield


def choose(
    bundle: ModelBundle,
    modes: Sequence[Mode],
    build: Callable[[Mode], Runner],
    *,
    max_batch: int,
    bounds: Bounds,
    logger: logging.Logger,
) -> Profile:
    """Measure every mode, in batches of one and of at most eight, and choose one.

    Eager float32 is chosen where no other is close enough. A mode that cannot run this network is told of and
    passed over.
    """
    trial = _Trial(bundle, min(_LARGEST, max_batch))
    reference = trial.embed(build(EAGER))
    measured = []
    for mode in modes:
        try:
            measured.append(trial.measure(mode, build(mode), reference))
        except Exception as error:  # noqa: BLE001 - an engine that cannot run this network is no candidate, whatever it says
            logger.warning("%s cannot be run by %s: %s", bundle.name, mode, error)
        else:
            logger.debug("%s", measured[-1])
    chosen: Measurement | None = None
    for each in measured:
        close = each.cosine_mean >= bounds.mean and each.cosine_worst >= bounds.worst
        if close and (chosen is None or each.images_per_s > _CLEARLY * chosen.images_per_s):
            chosen = each
    return Profile(chosen.mode if chosen else EAGER, tuple(measured))


class _Trial:
    """The sample photographs as a model wants them, and what a runner makes of them."""

    def __init__(self, bundle: ModelBundle, most: int) -> None:
        prepared = bundle.preprocessing
        self._key = BatchKey(bundle.name, "pixels", prepared.height, prepared.width, "pooled")
        self._most = most
        self._photographs = np.stack(
            [decode(path.read_bytes(), _LIMITS, prepared) for path in sample_photographs()]
        )

    def embed(self, runner: Runner) -> npt.NDArray[np.float32]:
        """Return the embeddings of all photographs, (12, D)."""
        parts = [
            self._run(runner, self._photographs[start : start + self._most])
            for start in range(0, len(self._photographs), self._most)
        ]
        return np.concatenate(parts)

    def measure(self, mode: Mode, runner: Runner, reference: npt.NDArray[np.float32]) -> Measurement:
        """Return how fast a runner is and how close to the reference."""
        found = self.embed(runner)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
        cosines = (found * reference).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
        alone_s, together_s = self._seconds(runner, 1), self._seconds(runner, self._most)
        fastest = max(1 / alone_s, self._most / together_s)
        return Measurement(mode, fastest, alone_s, float(cosines.mean()), float(cosines.min()))

    def _seconds(self, runner: Runner, size: int) -> float:
        """Return the median time of a batch."""
        batch = self._photographs[:size]
        self._run(runner, batch)
        times: list[float] = []
        began = time.perf_counter()
        while not times or time.perf_counter() - began < _TIMED_S:
            start = time.perf_counter()
            self._run(runner, batch)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def _run(self, runner: Runner, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return runner.run(self._key, pictures, ("embedding",))["embedding"]
