"""What recent embeddings look like, and how far they have moved from a reference.

Everything here is said of directions, x = e / |e|, because cosines are what embeddings are compared by.

    similarity   mean cosine of two different embeddings, (|Σx|² − n) / (n (n − 1));   1: they are all the same
    rank         (Σλ)² / Σλ² over the eigenvalues λ of their covariance: how many directions they vary in
                 (the participation ratio; Gao et al. 2017, https://doi.org/10.1101/214262)
    drift        |m − m_ref| / √(1 − similarity_ref): how far the mean has moved, in units of the distance that
                 an embedding of the reference has from its mean. The squared distance that two samples without
                 any drift have by chance, 1/n and 1/N of their spreads, is taken off.

Shapes: D is the embedding's length, N the window's.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Vector = npt.NDArray[np.float64]

# A reference of identical images has no spread to measure by: one hundredth of a right angle stands in.
_LEAST_SPREAD = 1e-4
# The least that has a similarity.
_PAIR = 2
# What is left of identical directions when their mean is taken off.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Reference:
    """What a sample of embeddings looked like: the mean direction (D,), and of how many it is."""

    mean: Vector
    count: int

    @property
    def similarity(self) -> float:
        """Mean cosine of two different embeddings."""
        return _similarity(self.mean * self.count, self.count)

    @property
    def spread(self) -> float:
        """Mean squared distance of an embedding's direction from the mean."""
        return max(1.0 - self.similarity, _LEAST_SPREAD)

    def drift(self, recent: "Reference") -> float:
        """Return how far another sample's mean is from this one's; see the module."""
        distance = float(np.sum((recent.mean - self.mean) ** 2))
        chance = recent.spread / recent.count + self.spread / self.count
        return math.sqrt(max(0.0, distance - chance) / self.spread)

    def save(self, path: Path) -> bool:
        """Write it, whole or not at all; return False where there is a file already.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part") as file:
            file.write(save({"mean": self.mean, "count": np.array(self.count)}))
            file.flush()
            try:
                path.hardlink_to(file.name)
            except FileExistsError:
                return False
        return True

    @classmethod
    def load(cls, path: Path, dimensions: int) -> "Reference":
        """Read what `save` wrote of embeddings of so many dimensions.

        Raises:
            OSError: there is no such file.
            ValueError: it is none of ours.
        """
        try:
            stored = load(path.read_bytes())
            mean, count = stored["mean"], int(stored["count"])
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no reference: {error}") from error
        fits = mean.shape == (dimensions,) and mean.dtype == np.float64
        if not (fits and np.isfinite(mean).all() and count >= _PAIR):
            raise ValueError(f"{path} holds no reference of {dimensions} dimensions")
        return cls(mean, count)


class Window:
    """The last N directions, with their products: adding one costs N · D multiplications, everything else N²."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: Vector = np.empty((0, 0))  # (N, D) from the first one on
        self._products: Vector = np.zeros((size, size))
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self._size)

    def add(self, direction: Vector) -> None:
        """Take one in; the oldest goes."""
        if not self._added:
            self._rows = np.zeros((self._size, len(direction)))
        at = self._added % self._size
        self._rows[at] = direction
        # Not `@`: the threads of its library spin, and a product of all rows took 35 ms of CPU instead of 0.4.
        products = np.einsum("ij,j->i", self._rows, direction)
        self._products[at] = products
        self._products[:, at] = products
        self._added += 1

    def summary(self) -> Reference:
        """Return the mean of those inside, of which there must be some."""
        return Reference(self._rows[: len(self)].mean(axis=0), len(self))

    def rank(self) -> float:
        """Return how many directions they vary in: 0 where they do not vary, at most min(n − 1, D)."""
        products = self._products[: len(self), : len(self)]
        means = products.mean(axis=0)
        # (n, n), of differences from the mean: it has the eigenvalues of the covariance, but for a factor.
        centred = products - means - means[:, None] + means.mean()
        trace = float(np.trace(centred))
        return trace**2 / float(np.sum(centred**2)) if trace > len(self) * _ROUNDING else 0.0


def _similarity(total: Vector, count: int) -> float:
    return float((np.sum(total**2) - count) / (count * (count - 1)))
