"""What makes one vector of the last feature map: `(B, C, H, W) -> (B, C)`.

    average   the mean over all places                                          (ResNet as published)
    gem       the generalised mean, (mean over all places of x³)^⅓: places that answer strongly count for more

Radenović, Tolias, Chum, *Fine-tuning CNN Image Retrieval with No Human Annotation*, 2018, arXiv 1711.02512; with
their power of 3, fixed. Letters as in `regard_models.attention.module`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

POWER = 3
LEAST = 1e-6
"""What a channel counts at least at any place: below zero a power means nothing, and at zero a root has no slope."""


def average(x: Tensor) -> Tensor:
    """Return the mean over all places."""
    return x.mean((2, 3))


def generalised_mean(x: Tensor) -> Tensor:
    """Return the generalised mean over all places, computed in float32 at least: float16 has no cube of 41."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.clamp(min=LEAST).pow(POWER).mean((2, 3)).pow(1 / POWER).to(x.dtype)


POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {"average": average, "gem": generalised_mean}
DESCRIPTIONS: Mapping[str, str] = {
    "average": "average of the last feature map",
    "gem": f"generalised mean (power {POWER}) of the last feature map",
}
