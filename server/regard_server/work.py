"""What travels between decode, batch and run."""

from typing import Any, Literal, NamedTuple

import numpy.typing as npt


class BatchKey(NamedTuple):
    """Which images can ride in one batch: those of one model, form and size, and of like cost.

    A tuple, because it is made, hashed and compared many times for every image.

    Attributes:
        model: the model's name.
        form: uint8 pixels, or a float tensor that is normalised already.
        height: rows.
        width: columns.
        cost: "pooled" where only vectors are wanted, "maps" where a batch also carries feature or attention maps,
            which are bulky and can keep a network from its fused kernels.
    """

    model: str
    form: Literal["pixels", "tensor"]
    height: int
    width: int
    cost: Literal["pooled", "maps"]


class Work(NamedTuple):
    """One image for the engine: (H, W, 3) uint8 or (3, H, W) float32, and the outputs wanted of it."""

    picture: npt.NDArray[Any]
    outputs: tuple[str, ...]
