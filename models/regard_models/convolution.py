"""A convolution with its norm and a rectifier, as selective kernels and segmentation heads are made of.

Letters as in `regard_models.attention.module`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Branch:
    """What a convolution's kernel looks like."""

    kernel: int
    dilation: int = 1
    groups: int = 1


class NormalisedConvolution(nn.Module):
    """A convolution, its norm and a rectifier."""

    NORMS: ClassVar[tuple[tuple[str, str], ...]] = (("conv", "norm"),)

    def __init__(
        self, channels_in: int, channels_out: int, branch: Branch, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        padding = branch.kernel // 2 * branch.dilation
        self.conv = nn.Conv2d(
            channels_in, channels_out, branch.kernel, stride, padding, branch.dilation, branch.groups, bias
        )
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        return functional.relu(self.norm(self.conv(x)))
