"""MHSA: multi-head scaled dot-product attention on tokens.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, *Attention Is All You Need*, 2017,
arXiv 1706.03762, in the form of the class `ScaledDotProductAttention`: heads of any width for keys and for
values, a mask, and factors of the logits; no residual, no norm, no position code. Letters as in
`regard_models.attention.dot_product`; D channels of a token.

For a feature map, tokens are `x.flatten(2).transpose(1, 2)`: `(B, C, H, W) -> (B, N, C)`. The form with a
position code, which BoTNet puts into a trunk, is `regard_models.attention.relative`. `SimplifiedAttention` is the
class `SimplifiedScaledDotProductAttention`.

Deviation: a query from which every key is hidden gets zero from that head (the published code: NaN in every
channel), unless `hidden_row` is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from regard_models.attention.dot_product import Heads, attend
from regard_models.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Collection

    from regard_models.attention.module import Maps


class MultiHeadAttention(nn.Module):
    """Multi-head attention of some tokens to others.

    Args:
        channels: D.
        key_width: channels of a head's queries and keys.
        value_width: channels of a head's values.
        heads: M.
        dropout: of the probabilities, in train mode only.
        hidden_row: what a fully hidden query gets from a head: 0, or NaN as in the published code.
    """

    def __init__(
        self,
        channels: int,
        key_width: int,
        value_width: int,
        heads: int,
        *,
        dropout: float = 0.1,
        hidden_row: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.hidden_row = heads, dropout, hidden_row
        self.scale = key_width**-0.5
        self.query: nn.Module = nn.Linear(channels, heads * key_width)
        self.key: nn.Module = nn.Linear(channels, heads * key_width)
        self.value: nn.Module = nn.Linear(channels, heads * value_width)
        self.out = nn.Linear(heads * value_width, channels)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Tensor | None = None,
        attention_weights: Tensor | None = None,
    ) -> Tensor:
        """Map queries `(B, Q, D)`, keys and values `(B, K, D)` to `(B, Q, D)`.

        Args:
            queries: who looks.
            keys: what is looked at.
            values: what is taken from it.
            attention_mask: boolean, true = hidden, broadcastable to `(B, M, Q, K)`; padding: `(B, 1, 1, K)`.
            attention_weights: factors of the logits (not of the probabilities), before the mask.
        """
        return self.attend(queries, keys, values, attention_mask, attention_weights)[0]

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Tensor | None = None,
        attention_weights: Tensor | None = None,
        *,
        wanted: Collection[str] = (),
    ) -> tuple[Tensor, Maps]:
        """Return what `forward` returns and, if wanted, `attention`, `(B, M, Q, K)`."""
        projected = Heads(
            self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(values))
        )
        out, probabilities = attend(
            projected,
            scale=self.scale,
            hidden=attention_mask,
            weights=attention_weights,
            dropout=self.dropout if self.training else 0.0,
            hidden_row=self.hidden_row,
            keep="attention" in wanted,
        )
        merged = self.out(out.transpose(1, 2).flatten(2))  # (B, Q, D)
        return merged, {} if probabilities is None else {"attention": probabilities}

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(
            1, 2
        )  # (B, M, tokens, width)


class SimplifiedAttention(MultiHeadAttention):
    """Multi-head attention of the tokens themselves: only the result is projected.

    Args:
        channels: D, a multiple of `heads`.
        heads: M.
        dropout: of the probabilities, in train mode only.
        hidden_row: what a fully hidden query gets from a head: 0, or NaN as in the published code.
    """

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.1, hidden_row: float = 0.0) -> None:
        if channels % heads:
            raise SpecError(f"{channels} channels in {heads} heads: expected a multiple")
        width = channels // heads
        super().__init__(channels, width, width, heads, dropout=dropout, hidden_row=hidden_row)
        self.query, self.key, self.value = nn.Identity(), nn.Identity(), nn.Identity()
