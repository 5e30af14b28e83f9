"""Scaled dot-product attention, the step that MHSA and both branches of DA share.

    out = softmax_row(q kᵀ · scale [⊙ weights] [−∞ where hidden]) v

Vaswani et al., *Attention Is All You Need*, 2017, arXiv 1706.03762. Letters: B images, M heads, Q queries,
K keys, d and e channels of a head's keys and values.

Without weights and with nobody asking for the probabilities it runs torch's fused kernel, which never
stores the Q x K matrix where the device allows. A row hidden everywhere has no softmax. The published code
makes it NaN; here it is zero, unless `hidden_row` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from regard_models.attention.module import MapInfo, Maps
from regard_models.errors import InputShapeError

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True)
class Heads:
    """Queries `(B, M, Q, d)`, keys `(B, M, K, d)` and values `(B, M, K, e)`."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def attend(
    heads: Heads,
    *,
    scale: float,
    hidden: Tensor | None = None,
    weights: Tensor | None = None,
    dropout: float = 0.0,
    hidden_row: float = 0.0,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return `(B, M, Q, e)` and, if `keep`, the probabilities `(B, M, Q, K)`.

    Args:
        heads: queries, keys and values.
        scale: factor of the logits.
        hidden: boolean, broadcastable to `(B, M, Q, K)`; true hides a key from a query.
        weights: factors of the logits, broadcastable likewise; 0 gives logit 0 and hides nothing.
        dropout: probability of dropping a probability.
        hidden_row: what a query from which every key is hidden gets: 0, or NaN as in the published code.
        keep: whether the probabilities are wanted.

    Raises:
        InputShapeError: `hidden` is not boolean, or does not broadcast.
    """
    empty = None
    if hidden is not None:
        hidden = _spread(hidden, (*heads.queries.shape[:3], heads.keys.shape[2]))
        empty = hidden.all(-1, keepdim=True)
        hidden = hidden & ~empty
    if weights is None and not keep and _has_kernel(heads):
        shown = None if hidden is None else ~hidden
        out, probabilities = _fused(heads, shown, scale, dropout), None
    else:
        logits = heads.queries @ heads.keys.transpose(-2, -1) * scale  # (B, M, Q, K)
        logits = logits if weights is None else logits * weights
        logits = logits if hidden is None else logits.masked_fill(hidden, -torch.inf)
        probabilities = functional.softmax(logits, -1)
        out = (functional.dropout(probabilities, dropout) if dropout else probabilities) @ heads.values
    if empty is not None:
        out = out.masked_fill(empty, hidden_row)
        probabilities = None if probabilities is None else probabilities.masked_fill(empty, hidden_row)
    return out, probabilities if keep else None


def _has_kernel(heads: Heads) -> bool:
    """Say whether a fused kernel takes such heads.

    On the CPU there is none for values of another width than keys; the fallback took 6 to 14 % longer than the
    formula, padding the keys 40 to 80 %.
    """
    return heads.queries.is_cuda or heads.queries.shape[-1] == heads.values.shape[-1]


def _spread(hidden: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mask as a view of full shape, which every kernel takes."""
    if hidden.dtype != torch.bool:
        raise InputShapeError(f"attention mask of {hidden.dtype}: expected bool, true = hidden")
    try:
        return hidden.broadcast_to(shape)
    except RuntimeError as cause:
        raise InputShapeError(
            f"attention mask of shape {tuple(hidden.shape)}: expected one that broadcasts to {shape} "
            "(images, heads, queries, keys); for padding pass (images, 1, 1, keys)"
        ) from cause


def _fused(heads: Heads, shown: Tensor | None, scale: float, dropout: float) -> Tensor:
    return functional.scaled_dot_product_attention(
        heads.queries, heads.keys, heads.values, attn_mask=shown, dropout_p=dropout, scale=scale
    )


def pairwise_info(name: str, heads: int, height: int, width: int) -> dict[str, MapInfo]:
    """Describe the two maps of a mechanism in which every position looks at every other."""
    positions = height * width
    return {
        name: MapInfo(
            (heads, positions, positions),
            ("head", "query", "key"),
            "how much each position (query, row-major) takes from every other (key); each row sums to 1",
        ),
        f"{name}_received": MapInfo(
            (height, width),
            ("height", "width"),
            "how much the others look at each position: the mean over heads and queries; sums to 1",
        ),
    }


def pairwise_maps(name: str, probabilities: Tensor | None, wanted: Collection[str], width: int) -> Maps:
    """Make those of the two maps that are wanted from probabilities `(B, M, N, N)`."""
    if probabilities is None:
        return {}
    maps = {name: probabilities} if name in wanted else {}
    if f"{name}_received" in wanted:
        received = probabilities.mean((1, 2))  # (B, N)
        maps[f"{name}_received"] = received.reshape(received.shape[0], received.shape[1] // width, width)
    return maps
