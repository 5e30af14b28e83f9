"""What was measured of a model's modes on this machine, kept so that the choice is the same at every start.

A profile belongs to a network, its weights, a processor, a number of threads and the versions that run it; under
any other of these it is not found, and the choice is measured again.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from regard_models import ModelBundle
from regard_server.engine.mode import Mode

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


@dataclass(frozen=True, slots=True)
class Profile:
    """The mode that was chosen, and everything that was measured."""

    chosen: Mode
    measured: tuple[Measurement, ...]

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
            return cls(Mode(**fields["chosen"]), measured)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def profile_path(cache: Path, bundle: ModelBundle, *, device: str, threads: int) -> Path:
    """Return where the profile of a model on this machine is kept."""
    belongs_to = {
        "architecture": bundle.architecture,
        "preprocessing": bundle.preprocessing.to_json(),
        "weights": bundle.weights_sha256,
        "processor": _processor(),
        "device": device,
        "threads": threads,
        "versions": {name: _version(name) for name in ("torch", "openvino")},
    }
    digest = hashlib.sha256(json.dumps(belongs_to, sort_keys=True).encode()).hexdigest()
    return cache / f"profile-{digest[:32]}.json"


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
