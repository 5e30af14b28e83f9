"""What travels between decode, batch and run: `Work` on the way in, `Rows` on the way back."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from regard_server.cost import Likeness
from regard_server.errors import RegardError

CostClass = Literal["pooled", "exact", "maps"]

# What a batch takes, at most, that needs the float32 network beside the chosen engine, or copies maps.
_DEARER = 4.0


class BatchKey(NamedTuple):
    """Which images can ride in one batch: those of one model, form and size, and of like cost.

    A tuple, because it is made, hashed and compared many times for every image.

    Attributes:
        model: the model's name.
        form: uint8 pixels, or a float tensor that is normalised already.
        height: rows.
        width: columns.
        cost: "pooled" where only vectors are wanted, "exact" where another network has to run for some of them than
            the one that gives the embedding, "maps" where a batch also carries feature or attention maps, which are
            bulky and can keep a network from its fused kernels.
    """

    model: str
    form: Literal["pixels", "tensor"]
    height: int
    width: int
    cost: CostClass


def likeness(key: BatchKey) -> Likeness:
    """Return which kinds of batch cost about as much, by their pixels: those of one form and class, or of one model."""
    usual = key.form == "pixels" and key.cost == "pooled"
    weight = key.height * key.width * (1.0 if usual else _DEARER)
    return Likeness(((key.model, key.form, key.cost), (key.model,)), weight)


class Work(NamedTuple):
    """Images for the engine, and the outputs wanted of each.

    Attributes:
        pictures: each (H, W, 3) uint8 or (3, H, W) float32, as an array or as its bytes in row-major order.
        outputs: names.
    """

    pictures: Sequence[Any]
    outputs: tuple[str, ...]

    def divide(self, count: int) -> "tuple[Work, Work]":
        """Return the first so many images, and the rest."""
        return self._replace(pictures=self.pictures[:count]), self._replace(pictures=self.pictures[count:])


class Rows(NamedTuple):
    """What a network made of the images of one `Work`.

    Attributes:
        values: the outputs asked for, by name, each (images, …).
        broken: the errors of those that have none, by their place; whatever `values` holds there means nothing.
    """

    values: dict[str, npt.NDArray[np.float32]]
    broken: dict[int, RegardError]


def stack(
    key: BatchKey, batch: Sequence[Work], join: Callable[[list[Any]], Any] | None = None
) -> npt.NDArray[Any]:
    """Return the pictures of a batch as one array, (B, H, W, 3) uint8 or (B, 3, H, W) float32, that may be written to.

    One copy of their bytes, however many they are: an array for each would cost as much as its picture does. `join`
    makes it in memory of its own choice.
    """
    pictures = [picture for work in batch for picture in work.pictures]
    joined = bytearray().join(pictures) if join is None else join(pictures)
    if key.form == "pixels":
        return np.frombuffer(joined, np.uint8).reshape(-1, key.height, key.width, 3)
    return np.frombuffer(joined, np.float32).reshape(-1, 3, key.height, key.width)
