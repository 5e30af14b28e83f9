"""DA as in the paper, for which there are published weights.

Fu, Liu, Tian, Li, Bao, Fang, Lu, *Dual Attention Network for Scene Segmentation*, 2018, arXiv 1809.02983.
Letters as in `regard_models.attention.module`.

    position: y = γ · v softmax_row(qᵀ k)ᵀ + x      q and k of C/8 channels, v of C, no 1/√d
    channel:  y = γ · softmax_row(max_row e − e) x + x      with e = x xᵀ; max_row e − e has the softmax of −e
    γ is learnt and starts at 0, so both start as the identity.

`ResidualDualAttention` is our own design: no classification network with DA was ever published. It adds
both branches to a trunk's map, y = x + γ_p P(x) + γ_c C(x), and starts as the identity, so that a
pretrained trunk keeps its features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.dot_product import Heads, attend, pairwise_maps
from regard_models.attention.dual import ChannelAttention, PositionAttention, describe
from regard_models.attention.module import AttentionModule, MapInfo, Maps

if TYPE_CHECKING:
    from collections.abc import Collection


class PaperPositionAttention(nn.Module):
    """Attention of every position to every other, with its residual.

    Args:
        channels: C.
        reduction: how many times fewer channels queries and keys have.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.starts_at = {"gamma": 0.0}
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape; any size, at a cost quadratic in N."""
        return self.attend(x)[0]

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return what `forward` returns and the maps that are wanted."""
        layers = (self.query, self.key, self.value)
        tokens = Heads(*(layer(x).flatten(2).transpose(1, 2)[:, None] for layer in layers))  # (B, 1, N, ·)
        keep = any(name.startswith(PositionAttention.NAME) for name in wanted)
        out, probabilities = attend(tokens, scale=1.0, keep=keep)
        mixed = out[:, 0].transpose(1, 2).reshape(x.shape)
        maps = pairwise_maps(PositionAttention.NAME, probabilities, wanted, x.shape[-1])
        return self.gamma * mixed + x, maps


class PaperChannelAttention(nn.Module):
    """Attention of every channel to every other, with its residual; its one parameter is γ."""

    def __init__(self) -> None:
        super().__init__()
        self.starts_at = {"gamma": 0.0}
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape; any size."""
        return self.attend(x)[0]

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return what `forward` returns and the map if it is wanted."""
        flat = x.flatten(2)  # (B, C, N)
        # float16 ends at 65504, which a sum of squares over positions passes easily.
        wide = flat.float() if flat.dtype is torch.float16 else flat
        shares = functional.softmax(-(wide @ wide.transpose(1, 2)), -1).to(x.dtype)  # (B, C, C)
        out = self.gamma * (shares @ flat).view_as(x) + x
        return out, {ChannelAttention.NAME: shares} if ChannelAttention.NAME in wanted else {}


class ResidualDualAttention(AttentionModule):
    """Both branches added to a trunk's map; the identity until γ is trained.

    Args:
        channels: C.
        reduction: of the position branch's queries and keys.
    """

    normalised = True

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.position = PaperPositionAttention(channels, reduction)
        self.channel = PaperChannelAttention()

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W)` to the same shape; any size."""
        position, position_maps = self.position.attend(x, wanted)
        channel, channel_maps = self.channel.attend(x, wanted)
        return position + channel - x, position_maps | channel_maps

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe `position_attention`, `position_attention_received` and `channel_attention`."""
        return describe(self.channels, height, width)
