"""MHSA on a feature map with a two-dimensional relative position code, as in BoTNet.

Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani, *Bottleneck Transformers for Visual Recognition*, 2021,
arXiv 2101.11605, as the published weights (timm) have it. Letters as in `regard_models.attention.module`; M
heads of d channels, a query at (i, j), a key at (i', j').

    logit = q·k/√d + q·height[i'−i+H−1] + q·width[j'−j+W−1]

The tables, (2H−1, d) and (2W−1, d), are shared by the heads and are not scaled by 1/√d. With stride 2 the
attention is computed at the input's size and its result averaged over 2x2.

Deviations: for a map of another size than the tables' the tables are resized linearly along the offset, the
extreme offsets and the centre staying in place; a side of odd length is averaged with its last row or
column alone instead of dropping it, so that the result fits the shortcut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.dot_product import pairwise_info, pairwise_maps
from regard_models.attention.module import AttentionModule, MapInfo, Maps, normal
from regard_models.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Collection


class RelativeAttention(AttentionModule):
    """Multi-head self-attention of a feature map, in place of a 3x3 convolution.

    Args:
        channels_in: channels of the map.
        channels_out: channels of the result, a multiple of `heads`.
        size: height and width of the map that the position tables are made for.
        heads: M.
        stride: 1, or 2 for a result of half the size.
    """

    def __init__(
        self, channels_in: int, channels_out: int, size: tuple[int, int], *, heads: int = 4, stride: int = 1
    ) -> None:
        super().__init__()
        if channels_out % heads or stride not in (1, 2):
            raise SpecError(
                f"relative attention of {channels_out} channels, {heads} heads, stride {stride}: "
                "expected a multiple of the heads, and stride 1 or 2"
            )
        self.heads = heads
        width = channels_out // heads
        self.qkv = nn.Conv2d(channels_in, 3 * channels_out, 1, bias=False)
        self.height = normal(2 * size[0] - 1, width, std=width**-0.5)
        self.width = normal(2 * size[1] - 1, width, std=width**-0.5)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride > 1 else nn.Identity()

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        height, width = x.shape[2:]
        channels = self.height.shape[1]
        qkv = self.qkv(x).reshape(x.shape[0], 3, self.heads, channels, height * width).transpose(3, 4)
        queries, keys, values = qkv.unbind(1)  # each (B, M, N, d)
        position = self._position(
            queries.reshape(x.shape[0], self.heads, height, width, channels)
        )  # (B, M, N, N)
        scale = queries.shape[-1] ** -0.5
        # Not the fused kernel: the position logits are as large as the probabilities that it would save, and with
        # such a bias it took 3 to 10 % longer (CPU, 256 positions).
        probabilities = (queries @ keys.transpose(-2, -1) * scale + position).softmax(-1)
        out = probabilities @ values  # (B, M, N, d)
        merged = out.transpose(2, 3).reshape(x.shape[0], self.heads * channels, height, width)
        return self.pool(merged), pairwise_maps("attention", probabilities, wanted, width)

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe `attention` and `attention_received`."""
        return pairwise_info("attention", self.heads, height, width)

    def _position(self, queries: Tensor) -> Tensor:
        """Return the position logits of queries `(B, M, H, W, d)`: `(B, M, N, N)`."""
        height, width = queries.shape[2:4]
        rows = _by_pair(self.height, height)  # (H, H, d)
        columns = _by_pair(self.width, width)  # (W, W, d)
        down = torch.einsum("bmhwd,hkd->bmhwk", queries, rows)
        across = torch.einsum("bmhwd,wkd->bmhwk", queries, columns)
        return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)


def resize_table(table: Tensor, side: int) -> Tensor:
    """Resize a table of offsets `(2n−1, d)` to `(2·side−1, d)`; its ends and its centre stay in place."""
    if len(table) == 2 * side - 1:
        return table
    # Not in half precision, for which the linear kernel is missing on some devices.
    exact = table if table.dtype is torch.float64 else table.float()
    wide = functional.interpolate(exact.T[None], 2 * side - 1, mode="linear", align_corners=True)
    return wide[0].T.to(table.dtype)


def _by_pair(table: Tensor, side: int) -> Tensor:
    """Spread a table by offset into one by query and key: `(2n−1, d) -> (side, side, d)`."""
    place = torch.arange(side, device=table.device)
    return resize_table(table, side)[place[None, :] - place[:, None] + side - 1]
