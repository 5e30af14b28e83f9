"""What was measured of a model's modes on this machine, kept so that the choice is the same at every start.

A profile belongs to a network, its weights, a kind of device, a number of threads, a largest batch and the versions
that run it; under any other of these it is not found, and everything is measured again. It does not belong to what
was asked: it holds measurements and no choice, which is made of them anew at every start (see choice.py).
"""

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import platform
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from regard_models import ModelBundle
from regard_server.engine.mode import EAGER, Mode

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One mode, measured.

    Attributes:
        mode: which.
        images_per_s: at the batch size that suits it best.
        alone_s: a batch of one.
        cosine_mean: of its embeddings of the sample photographs with the eager float32 ones.
        cosine_worst: likewise.
    """

    mode: Mode
    images_per_s: float
    alone_s: float
    cosine_mean: float
    cosine_worst: float

    def beside(self, then: "Measurement", now: "Measurement") -> "Measurement":
        """Return what it would be now, when another mode takes not what it took then."""
        return dataclasses.replace(
            self,
            images_per_s=self.images_per_s * now.images_per_s / then.images_per_s,
            alone_s=self.alone_s * now.alone_s / then.alone_s,
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """Every mode that was measured, and those that cannot run the network."""

    measured: tuple[Measurement, ...] = ()
    failed: tuple[Mode, ...] = ()

    def of(self, mode: Mode) -> Measurement | None:
        """Return what was measured of a mode, if it was."""
        return next((each for each in self.measured if each.mode == mode), None)

    def knows(self, mode: Mode) -> bool:
        """Tell whether a mode was tried, successfully or not."""
        return mode in self.failed or self.of(mode) is not None

    def joined(self, newer: "Profile") -> "Profile":
        """Return this profile with what was measured since.

        The same machine may be a third slower an hour later. Eager float32 is measured each time, and what is kept of
        before is told in its pace of now.
        """
        kept = [each for each in self.measured if not newer.knows(each.mode)]
        then, now = self.of(EAGER), newer.of(EAGER)
        if then and now:
            kept = [each.beside(then, now) for each in kept]
        failed = [mode for mode in self.failed if not newer.knows(mode)]
        return Profile((*kept, *newer.measured), (*failed, *newer.failed))

    def save(self, path: Path) -> None:
        """Write it; raises OSError where that is impossible."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        scratch.replace(path)  # a reader sees the old one or the new one

    @classmethod
    def load(cls, path: Path) -> "Profile | None":
        """Read it; None where there is none, or none that can be read: then it is measured again."""
        try:
            fields = json.loads(path.read_text())
            measured = tuple(
                Measurement(**{**each, "mode": Mode(**each["mode"])}) for each in fields["measured"]
            )
            return cls(measured, tuple(Mode(**each) for each in fields["failed"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


class Profiles:
    """The profiles of this machine: in a folder, for later starts and for replicas, and in memory, for other devices.

    Args:
        folder: where they are kept; None: in memory alone.
        logger: where a profile that cannot be kept is told of.
    """

    def __init__(self, folder: Path | None, logger: logging.Logger) -> None:
        self._folder = folder
        self._logger = logger
        self._kept: dict[str, Profile] = {}
        self._lock = threading.Lock()

    def find(self, key: str) -> Profile:
        """Return what is known; an empty profile if nothing is."""
        found = self._kept.get(key)
        if not found and self._folder:
            found = Profile.load(self._path(self._folder, key))
        return found or Profile()

    def keep(self, key: str, profile: Profile) -> None:
        """Keep what is known from now on."""
        self._kept[key] = profile
        if self._folder:
            try:
                profile.save(self._path(self._folder, key))
            except OSError as error:
                self._logger.warning("the profile cannot be kept: %s", error)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Let one device of this process, and one process for a key, look for a profile and measure at a time.

        Devices and replicas that start together on one machine would measure each other's noise and choose
        differently; so the first measures, and the others find what it found.
        """
        with self._lock, ExitStack() as stack:
            if self._folder:
                try:
                    self._take_turn(self._path(self._folder, key).with_suffix(".lock"), stack)
                except OSError as error:
                    self._logger.debug("no turns are taken at measuring: %s", error)
            yield

    def _take_turn(self, path: Path, stack: ExitStack) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(path.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._logger.info("another process measures this model; waiting for what it finds")
            fcntl.flock(lock, fcntl.LOCK_EX)  # its holder's end gives it up, whatever that was

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"profile-{key}.json"


def profile_key(bundle: ModelBundle, *, device: str, threads: int, max_batch: int) -> str:
    """Return what the profile of a model on this machine is kept under; all devices of a kind have the same."""
    belongs_to = {
        "architecture": bundle.architecture,
        "preprocessing": bundle.preprocessing.to_json(),
        "weights": bundle.weights_sha256,
        "processor": _processor(),
        "device": device,
        "threads": threads,
        "max_batch": max_batch,
        "versions": {name: _version(name) for name in ("torch", "openvino")},
    }
    digest = hashlib.sha256(json.dumps(belongs_to, sort_keys=True).encode()).hexdigest()
    return digest[:32]


def _processor() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith(("model name", "flags")):
                return line + platform.machine()
    return platform.processor() + platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
