"""What runs a network: takes a stack of pictures, gives arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from regard_server.work import BatchKey

Arrays = Mapping[str, npt.NDArray[np.float32]]


class Runner(Protocol):
    """A network in one mode on one device; used by the device's lanes only.

    Attributes:
        weights_bytes: what it holds of the device's memory at all times.
    """

    weights_bytes: int

    def covers(self, key: BatchKey, output: str) -> bool:
        """Tell whether it can give an output of this kind of batch."""

    def run(self, key: BatchKey, pictures: npt.NDArray[Any], outputs: Sequence[str]) -> Arrays:
        """Return outputs of a batch: (B, H, W, 3) uint8 or (B, 3, H, W) float32 -> (B, …) float32, each."""
