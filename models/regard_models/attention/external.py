"""EA: external attention, to a memory that all images share.

Guo, Liu, Mu, Hu, *Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks*, 2021,
arXiv 2105.02358. Letters as in `regard_models.attention.module`; S memory slots.

    f = W₁ x + b₁                           (C, N)
    s = keys f                              (S, N)
    p = softmax of s over POSITIONS, for each slot
    a = p / (1e-9 + sum of p over SLOTS)
    y = relu(BN(W₂ values a) + x)

b₁ has no effect: it adds a constant per slot over positions, which the softmax removes. It is kept because
published weights have it. Deviations: the number of slots is an argument (the published code fixes 64);
whether the two memories are one is an argument (the published code ties them by accident of storage until
the module is first moved or cast); in half precision the two normalisations are computed in float32, since
1e-9 is 0 in float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention.module import AttentionModule, MapInfo, Maps, normal

if TYPE_CHECKING:
    from collections.abc import Collection

EPSILON = 1e-9


class ExternalAttention(AttentionModule):
    """External attention with its residual, as published.

    Args:
        channels: C. slots: S. tied: one memory serves as keys and, transposed, as values.
        starts_as_identity: fresh weights make it the identity on rectified maps, for insertion into a
        trained trunk.
    """

    normalised: ClassVar[bool] = True

    def __init__(
        self, channels: int, slots: int = 64, *, tied: bool = False, starts_as_identity: bool = False
    ) -> None:
        super().__init__()
        self.starts_at = {"norm.weight": 0.0} if starts_as_identity else {}
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.keys = normal(slots, channels, std=(1 / channels) ** 0.5)
        self.values = None if tied else nn.Parameter(self.keys.detach().T.contiguous())
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W)` to the same shape; any size, one pixel included."""
        memory = _look_up(self.keys, self.project_in(x))  # (B, S, N)
        values = self.keys.T if self.values is None else self.values
        out = self.project_out((values @ memory).view_as(x))
        return functional.relu(self.norm(out) + x), _map(memory, x, wanted)

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe `attention`."""
        return _describe(len(self.keys), height, width)

    def folded(self) -> FoldedExternalAttention:
        """Return the same function in eval mode, with everything linear multiplied out.

        keys' = keys W₁, values' = diag(γ/√(v+ε)) W₂ values, b' = β − γμ/√(v+ε): 2SC + C parameters instead of
        2C² + 2SC + 3C, and nine times fewer multiplications at C = 512.
        """
        norm = self.norm
        if norm.running_var is None or norm.running_mean is None:
            raise ValueError("a norm without running statistics cannot be folded")
        values = self.keys.T if self.values is None else self.values
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return FoldedExternalAttention(
            (self.keys @ self.project_in.weight.flatten(1)).detach(),
            (scale[:, None] * (self.project_out.weight.flatten(1) @ values)).detach(),
            (norm.bias - norm.running_mean * scale).detach(),
        )


class FoldedExternalAttention(AttentionModule):
    """External attention for inference only: keys `(S, C)`, values `(C, S)` and a bias `(C)`."""

    normalised: ClassVar[bool] = True

    def __init__(self, keys: Tensor, values: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.values = nn.Parameter(values)
        self.bias = nn.Parameter(bias)

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Map `(B, C, H, W)` to the same shape."""
        memory = _look_up(self.keys, x)
        out = (self.values @ memory).view_as(x) + self.bias[:, None, None]
        return functional.relu(out + x), _map(memory, x, wanted)

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe `attention`."""
        return _describe(len(self.keys), height, width)


def _look_up(keys: Tensor, features: Tensor) -> Tensor:
    """Return how much of each slot each position takes: `(B, C, H, W) -> (B, S, N)`."""
    scores = keys @ features.flatten(2)
    half = scores.dtype in (torch.float16, torch.bfloat16)
    over_positions = functional.softmax(scores, -1, dtype=torch.float32 if half else None)
    return (over_positions / (EPSILON + over_positions.sum(1, keepdim=True))).to(scores.dtype)


def _map(memory: Tensor, x: Tensor, wanted: Collection[str]) -> Maps:
    return {"attention": memory.reshape(*memory.shape[:2], *x.shape[2:])} if "attention" in wanted else {}


def _describe(slots: int, height: int, width: int) -> dict[str, MapInfo]:
    text = "share of each memory slot in each position; sums to 1 over the slots"
    return {"attention": MapInfo((slots, height, width), ("slot", "height", "width"), text)}
