"""Which mechanism a spec's slot names, and how it is built at a place in a trunk.

Each builder takes a `Site` and the slot's arguments as keywords. Behind a block, external and dual
attention are our own design (no classification network with them was ever published): residuals that start
as the identity, so that a pretrained trunk keeps its features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from regard_models.attention.dual_paper import ResidualDualAttention
from regard_models.attention.external import ExternalAttention
from regard_models.attention.pyramid import PyramidAttention
from regard_models.attention.relative import RelativeAttention
from regard_models.attention.selective_kernel import SelectiveKernel
from regard_models.convolution import Branch
from regard_models.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from regard_models.attention.module import AttentionModule


@dataclass(frozen=True)
class Site:
    """Where in a trunk a mechanism is to be built.

    Attributes:
        channels: channels in and channels out.
        stride: how much smaller the result is.
        dilation: of the 3x3 that is replaced.
        groups: of the 3x3 that is replaced.
        size: height and width of the feature map at the model's own input size.
    """

    channels: tuple[int, int]
    stride: int
    dilation: int
    groups: int
    size: tuple[int, int]

    def unchanging(self, mechanism: str) -> int:
        """Return the channels of a place where a map keeps its shape.

        Raises:
            SpecError: it is no such place.
        """
        if self.stride != 1 or self.channels[0] != self.channels[1]:
            raise SpecError(
                f"{mechanism} attention keeps a map's shape; use it after a block, not in place of a 3x3"
            )
        return self.channels[0]


def _external(site: Site, *, slots: int = 64, tied: bool = False) -> AttentionModule:
    return ExternalAttention(site.unchanging("external"), slots, tied=tied, starts_as_identity=True)


def _dual(site: Site, *, reduction: int = 8) -> AttentionModule:
    return ResidualDualAttention(site.unchanging("dual"), reduction)


def _relative(site: Site, *, heads: int = 4) -> AttentionModule:
    return RelativeAttention(*site.channels, site.size, heads=heads, stride=site.stride)


def _pyramid(
    site: Site,
    *,
    kernels: tuple[int, ...] = (3, 5, 7, 9),
    groups: tuple[int, ...] = (1, 4, 8, 16),
    reduction: int = 16,
) -> AttentionModule:
    return PyramidAttention(*site.channels, kernels, groups, stride=site.stride, reduction=reduction)


def _selective(
    site: Site, *, ratio: int = 16, least: int = 32, divisor: int = 1, split_input: bool = False
) -> AttentionModule:
    """Two 3x3 of dilation 1 and 2: the paper's branches, with the groups of the 3x3 that they replace."""
    branches = [Branch(3, dilation, site.groups) for dilation in (site.dilation, 2 * site.dilation)]
    descriptor = max(least, _divisible(site.channels[1] / ratio, divisor))
    return SelectiveKernel(*site.channels, branches, descriptor, stride=site.stride, split_input=split_input)


def _selective_grouped(site: Site, *, ratio: int = 16, groups: int = 32) -> AttentionModule:
    """A dense 3x3 and a grouped one: PytorchInsight's branches."""
    branches = [Branch(3), Branch(3, groups=groups)]
    return SelectiveKernel(*site.channels, branches, site.channels[1] // ratio, stride=site.stride)


def _divisible(value: float, divisor: int) -> int:
    """Round to a multiple of `divisor`, never below nine tenths of the value (as timm does)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


MECHANISMS: dict[str, Callable[..., AttentionModule]] = {
    "external": _external,
    "dual": _dual,
    "relative": _relative,
    "pyramid": _pyramid,
    "selective_kernel": _selective,
    "selective_kernel_grouped": _selective_grouped,
}
