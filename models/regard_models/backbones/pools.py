"""What makes a vector of a feature map: `(B, C, H, W) -> (B, C)`.

    average   the mean over all places                                          (ResNet as published)
    gem       the generalised mean, (mean over all places of x⁴)^¼: places that answer strongly count for more

Radenović, Tolias, Chum, *Fine-tuning CNN Image Retrieval with No Human Annotation*, 2018, arXiv 1711.02512. They learn
the power, from 3 on; 4 is fixed here, two squares and two square roots. Letters as in
`regard_models.attention.module`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

POWER = 4
LEAST = 1e-6
"""What the mean of a channel is at least: at zero a root has no slope."""


def average(x: Tensor) -> Tensor:
    """Return the mean over all places."""
    return x.mean((2, 3))


def generalised_mean(x: Tensor) -> Tensor:
    """Return the generalised mean over all places, in float32 at least: in float16, 16⁴ is too large."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).relu()
    mean = wide.square().square().mean((2, 3)).clamp(min=LEAST**POWER)
    return mean.sqrt().sqrt().to(x.dtype)


POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {"average": average, "gem": generalised_mean}
NAMES: Mapping[str, str] = {"average": "average", "gem": f"generalised mean (power {POWER})"}
