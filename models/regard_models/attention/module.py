"""What every attention mechanism in a trunk has in common: a feature map in, one out, and a map on request.

Letters: B images, C channels, H and W height and width, N = H * W positions, row-major.

The map is an ordinary second result of `attend`, computed only when its name is in `wanted`. There are no
hooks and no state between calls, so it is safe under `torch.compile` and when several threads share a
module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Collection

Maps: TypeAlias = "dict[str, Tensor]"


@dataclass(frozen=True)
class MapInfo:
    """One attention map: its shape without the batch axis, a name for each axis, and what it means."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    description: str


def normal(*shape: int, std: float) -> nn.Parameter:
    """Return a parameter drawn from torch's global random state; on the meta device nothing is drawn.

    Drawing there imports sympy: a second, and 70 MB that a server would keep.
    """
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(std=std))


class AttentionModule(nn.Module, ABC):
    """A mechanism that turns a feature map into one of the same or a strided size."""

    normalised: ClassVar[bool] = False
    """True where the result is already normalised and rectified, so that a block adds neither after it."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, C', H', W')`."""
        return self.attend(x)[0]

    @abstractmethod
    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return what `forward` returns, and the attention maps named in `wanted`."""

    @abstractmethod
    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe the maps that `attend` offers for an input of `height` and `width`."""
