"""What the pipeline is asked, and what it answers: the same for every protocol.

What is made for every image is a tuple: it costs a third of a frozen dataclass.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from regard_server.catalog import ServedModel
from regard_server.errors import RegardError


class Picture(NamedTuple):
    """An image on its way in.

    Attributes:
        read: makes it ready for the network, in a decoder thread: returns (H, W, 3) uint8 or (3, H, W) float32,
            and raises `InvalidImageError`.
        size_bytes: what it takes in memory until then.
        form: what `read` will return, known beforehand so that its cost can be predicted.
        height: likewise.
        width: likewise.
        quick: whether `read` costs less than a hop to a thread; it is then called on the event loop.
        content: returns everything that the answer depends on, besides model and outputs.
    """

    read: Callable[[], npt.NDArray[Any]]
    size_bytes: int
    form: Literal["pixels", "tensor"]
    height: int
    width: int
    quick: bool = False
    content: Callable[[], tuple[bytes, ...]] | None = None


class Request(NamedTuple):
    """What to extract from which pictures, until when (on the pipeline's clock).

    A patient request waits for room where another is refused. `client` is who sends it, where that is minded.
    """

    model: ServedModel
    pictures: Sequence[Picture]
    outputs: tuple[str, ...]
    arrived: float
    deadline: float
    priority: int
    patient: bool = False
    client: str = ""


class Timings(NamedTuple):
    """Where one picture's time went, in seconds. Steps that were not reached are zero."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0
    batch_size: int = 0


class Result(NamedTuple):
    """What became of one picture: its outputs by name, or an error of its own."""

    outcome: dict[str, npt.NDArray[np.float32]] | RegardError
    timings: Timings
