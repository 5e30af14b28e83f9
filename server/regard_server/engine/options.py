"""How the networks of one device are run: the engine's part of the settings."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bounds:
    """How close embeddings must be to float32: cosines over the sample photographs."""

    mean: float
    worst: float


DEFAULT_BOUNDS = Bounds(0.999, 0.995)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How networks are run.

    Attributes:
        device: a torch device, or "auto": CUDA where there is one.
        threads: how many CPU threads a network may use.
        max_batch: the largest batch that `run` will see.
        engine: "auto", or the one to use.
        dtype: "auto", or the one to use.
        bounds: how close to float32 embeddings must stay where the choice is automatic.
        invariant: whether an image's bits must not depend on its batchmates: each then runs alone.
        memory_fraction: the share of a CUDA device's memory that the process may take.
        max_model_bytes: what one network may take there, weights and a batch together; 0: whatever there is.
        cache: folder of profiles and traced graphs; None: nothing is kept.
    """

    device: str = "cpu"
    threads: int = 1
    max_batch: int = 32
    engine: str = "eager"
    dtype: str = "float32"
    bounds: Bounds = DEFAULT_BOUNDS
    invariant: bool = False
    memory_fraction: float = 1.0
    max_model_bytes: int = 0
    cache: Path | None = None
