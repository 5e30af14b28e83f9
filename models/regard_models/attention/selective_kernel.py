"""SK: selective kernels, branches of different reach weighed per channel.

Li, Wang, Hu, Yang, *Selective Kernel Networks*, 2019, arXiv 1903.06586. Letters as in
`regard_models.attention.module`; M branches, d channels of the descriptor.

    F_i = relu(BN_i(conv_i(x)))                                i = 1 … M
    s   = mean over positions of Σ_i F_i                       (C)
    z   = reduce(s), or relu(BN(reduce(s))) in the paper       (d)
    α_i = softmax over BRANCHES of select_i(z)                 (M, C)
    y   = Σ_i α_i ⊙ F_i                                        (no residual, y ≥ 0)

One class holds both published forms, for they differ in arguments only: the class `SKAttention` (dense
kernels 1, 3, 5, 7, biases, a linear descriptor) and the paper's convolution with which networks were
trained (two 3x3 of dilation 1 and 2, no biases, a normalised descriptor, a stride). `split_input` is
timm's: branch i sees only its share of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.module import AttentionModule, MapInfo, Maps
from regard_models.convolution import Branch, NormalisedConvolution
from regard_models.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class SelectiveKernel(AttentionModule):
    """Selective kernels in place of a convolution.

    Args:
        channels_in: channels of the map.
        channels_out: C, the channels of the result.
        branches: the convolutions; their kernels are all odd or all even.
        descriptor: d.
        stride: of every branch.
        bias: whether convolutions and the two layers of the descriptor have one.
        normalise: whether the descriptor is normalised and rectified, as in the paper.
        split_input: whether each branch sees only its share of the input's channels.
    """

    NORMS: ClassVar[tuple[tuple[str, str], ...]] = (("reduce", "norm"),)
    normalised: ClassVar[bool] = True

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        branches: Sequence[Branch],
        descriptor: int,
        *,
        stride: int = 1,
        bias: bool = False,
        normalise: bool = True,
        split_input: bool = False,
    ) -> None:
        super().__init__()
        if len({each.kernel % 2 for each in branches}) != 1:
            raise SpecError(f"kernels {[each.kernel for each in branches]}: expected all odd or all even")
        if split_input and channels_in % len(branches):
            raise SpecError(f"{channels_in} channels cannot be split between {len(branches)} branches")
        self.share = channels_in // len(branches) if split_input else 0
        self.branches = nn.ModuleList(
            NormalisedConvolution(self.share or channels_in, channels_out, each, stride=stride, bias=bias)
            for each in branches
        )
        self.reduce = nn.Linear(channels_out, descriptor, bias=bias)
        self.norm = nn.BatchNorm1d(descriptor) if normalise else None
        self.select = nn.Linear(descriptor, len(branches) * channels_out, bias=bias)

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        inputs = x.tensor_split(len(self.branches), 1) if self.share else [x] * len(self.branches)
        features = [branch(part) for branch, part in zip(self.branches, inputs, strict=True)]
        descriptor = self.reduce(sum(each.mean((2, 3)) for each in features))
        if self.norm is not None:
            descriptor = functional.relu(self.norm(descriptor))
        shares = (
            self.select(descriptor).reshape(x.shape[0], len(features), features[0].shape[1]).softmax(1)
        )  # (B, M, C)
        # One multiply-add a branch: stacking all branches took three to four times as long (CPU).
        gates = shares[..., None, None].unbind(1)
        out = features[0] * gates[0]
        for feature, gate in zip(features[1:], gates[1:], strict=True):
            out = torch.addcmul(out, feature, gate)
        return out, {"attention": shares} if "attention" in wanted else {}

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:  # noqa: ARG002 - the same for every size
        """Describe `attention`."""
        shape = (len(self.branches), self.select.out_features // len(self.branches))
        text = "share of each branch in each channel; sums to 1 over the branches"
        return {"attention": MapInfo(shape, ("branch", "channel"), text)}
