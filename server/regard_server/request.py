"""What the pipeline is asked, and what it answers: the same for every protocol.

What is made for every image is a tuple: it costs a third of a frozen dataclass. Small images that need no decoding, and
are of one size, are gathered: they are one `Picture` on their way in, and one `Result` on their way back, or a few.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from regard_server.catalog import ServedModel
from regard_server.errors import RegardError

_NONE: Final[Mapping[int, RegardError]] = MappingProxyType({})


class Picture(NamedTuple):
    """An image on its way in, or several that are read together.

    Attributes:
        read: makes them ready for the network, in a decoder thread: returns each as (H, W, 3) uint8 or (3, H, W)
            float32, as an array or its bytes, and raises `InvalidImageError`, if it is one.
        size_bytes: what they take in memory until then.
        form: what `read` will return, known beforehand so that its cost can be predicted.
        height: likewise.
        width: likewise.
        quick: whether `read` costs less than a hop to a thread; it is then called on the event loop.
        content: returns everything that the answer depends on, besides model and outputs.
        images: how many it is; only those that are quick and have no content are several.
        identity: a hash of the content, where it was asked for before.
    """

    read: Callable[[], Sequence[Any]]
    size_bytes: int
    form: Literal["pixels", "tensor"]
    height: int
    width: int
    quick: bool = False
    content: Callable[[], tuple[bytes, ...]] | None = None
    images: int = 1
    identity: Hashable = None


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

    @property
    def images(self) -> int:
        """How many images it asks about."""
        return sum([picture.images for picture in self.pictures])


class Timings(NamedTuple):
    """Where one picture's time went, in seconds. Steps that were not reached are zero."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0
    batch_size: int = 0


class Result(NamedTuple):
    """What became of one image, or of several that went the same way.

    Attributes:
        outcome: outputs by name, each (images, …), or the error of all. A lone image's error always stands here.
        timings: of each.
        images: how many.
        broken: of several the errors of single ones, by their place; what `outcome` holds there means nothing, and if
            it is all of them, `outcome` may hold no outputs.
    """

    outcome: dict[str, npt.NDArray[np.float32]] | RegardError
    timings: Timings
    images: int = 1
    broken: Mapping[int, RegardError] = _NONE
