"""DA: dual attention, over positions and over channels, in the form of the classes of that name.

After Fu, Liu, Tian, Li, Bao, Fang, Lu, *Dual Attention Network for Scene Segmentation*, 2018, arXiv
1809.02983; these classes (`PositionAttentionModule`, `ChannelAttentionModule`, `DAModule`) share only the
idea with the paper, whose own modules, with published weights, are in `regard_models.attention.dual_paper`.
Letters as in `regard_models.attention.module`.

    position: t = conv(x) as tokens (N, C);  out = MHSA with one head of width C, of t to itself
    (N, C) channel:  u = conv(x) flattened (C, N);  out = W_o softmax_row(u uᵀ/√N) u + b_o, W_o mixing
    positions  (C, N) y = position + channel, as a map; no residual

W_o is (N₀, N₀) for the size H₀ x W₀ that the module is built for. Elsewhere the published code fails (or,
if only H·W agrees, permutes positions in silence). `any_size` is our rule for other sizes: the values are
resampled to H₀ x W₀ before W_o and the result is resampled back (bilinear, antialiased), and logits are
scaled by N₀/N, since u uᵀ sums over positions. At H₀ x W₀ it is the published function exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.dot_product import Heads, attend, pairwise_info, pairwise_maps
from regard_models.attention.module import AttentionModule, MapInfo, Maps
from regard_models.attention.multi_head import MultiHeadAttention
from regard_models.errors import InputShapeError

if TYPE_CHECKING:
    from collections.abc import Collection


class PositionAttention(nn.Module):
    """Attention of every position to every other: a map in, tokens out.

    Args:
        channels: C.
        kernel: of the convolution in front.
    """

    NAME: ClassVar[str] = "position_attention"

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=(kernel - 1) // 2)
        self.attention = MultiHeadAttention(channels, channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, N, C)`; any size."""
        return self.attend(x)[0]

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return what `forward` returns and the maps that are wanted."""
        tokens = self.conv(x).flatten(2).transpose(1, 2)  # (B, N, C)
        keep = any(name.startswith(self.NAME) for name in wanted)
        out, maps = self.attention.attend(tokens, tokens, tokens, wanted=("attention",) if keep else ())
        return out, pairwise_maps(self.NAME, maps.get("attention"), wanted, x.shape[-1])


class ChannelAttention(nn.Module):
    """Attention of every channel to every other: a map in, channels of positions out.

    Args:
        channels: C.
        kernel: of the convolution in front.
        size: H₀ and W₀.
        any_size: whether maps of other sizes are resampled, or refused.
        dropout: of the probabilities, in train mode only.
    """

    NAME: ClassVar[str] = "channel_attention"

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        size: tuple[int, int] = (7, 7),
        *,
        any_size: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.size, self.any_size, self.dropout = size, any_size, dropout
        self.conv = nn.Conv2d(channels, channels, kernel, padding=(kernel - 1) // 2)
        self.out = nn.Linear(math.prod(size), math.prod(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, C, N)`.

        Raises:
            InputShapeError: N is not H₀·W₀ and `any_size` is off.
        """
        return self.attend(x)[0]

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return what `forward` returns and the map if it is wanted."""
        features = self.conv(x)
        height, width = features.shape[2:]
        positions, trained = height * width, self.out.in_features
        if positions != trained and not self.any_size:
            raise InputShapeError(
                f"channel attention for {self.size[0]}x{self.size[1]} positions got {height}x{width}; "
                "build it for that size, or with any_size=True"
            )
        resample = self.any_size and (height, width) != self.size
        flat = features.flatten(2)[:, None]  # (B, 1, C, N)
        values = _resampled(features, self.size).flatten(2)[:, None] if resample else flat
        out, probabilities = attend(
            Heads(flat, flat, values),
            scale=trained**0.5 / positions,
            dropout=self.dropout if self.training else 0.0,
            keep=self.NAME in wanted,
        )
        mixed = self.out(out[:, 0])  # (B, C, N₀)
        if resample:
            mixed = _resampled(mixed.reshape(*mixed.shape[:2], *self.size), (height, width)).flatten(2)
        return mixed, {} if probabilities is None else {self.NAME: probabilities[:, 0]}


class DualAttention(AttentionModule):
    """Both branches, added.

    Args:
        channels: C.
        kernel: of the convolution in front of each branch.
        size: H₀ and W₀.
        any_size: what the channel branch does with maps of other sizes.
    """

    def __init__(
        self, channels: int, kernel: int = 3, size: tuple[int, int] = (7, 7), *, any_size: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.position = PositionAttention(channels, kernel)
        self.channel = ChannelAttention(channels, kernel, size, any_size=any_size)

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W)` to the same shape."""
        position, position_maps = self.position.attend(x, wanted)
        channel, channel_maps = self.channel.attend(x, wanted)
        out = position.transpose(1, 2) + channel
        return out.reshape(x.shape), position_maps | channel_maps

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe `position_attention`, `position_attention_received` and `channel_attention`."""
        return describe(self.channels, height, width)


def describe(channels: int, height: int, width: int) -> dict[str, MapInfo]:
    """Describe the maps of dual attention, in either form."""
    text = "how much each channel (query) takes from every other (key); each row sums to 1"
    info = MapInfo((channels, channels), ("query_channel", "key_channel"), text)
    return {**pairwise_info(PositionAttention.NAME, 1, height, width), ChannelAttention.NAME: info}


def _resampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", antialias=True)
