"""What stands behind the trunk: classes for the picture, or for every position of it.

A head takes the last feature map and offers outputs by name, `embedding` and `logits` among them; it
computes only what is wanted. The plain classifier is no module of its own: its one layer is `fc` of the
network, where torchvision has it.

Letters as in `regard_models.attention.module`; K classes, D channels of the embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from regard_models.outputs import OutputInfo


class Head(nn.Module, ABC):
    """What turns the trunk's last feature map into outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, K, H, W)`, the logits."""
        return self.run(x, ("logits",))["logits"]

    @abstractmethod
    def run(self, x: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Return the outputs named in `wanted`, computing no others."""

    @abstractmethod
    def outputs(self, height: int, width: int) -> dict[str, OutputInfo]:
        """Describe what `run` offers for a feature map of `height` and `width`."""


def pool(x: Tensor) -> Tensor:
    """Average over positions: `(B, C, H, W) -> (B, C)`."""
    return x.mean((2, 3))


HEADS: dict[str, Callable[..., Head]] = {}
"""Builders by name: each takes `channels`, `num_classes` and the slot's arguments as keywords."""
