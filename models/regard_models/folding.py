"""The same network for inference only, with what is linear multiplied out.

    convolution (or linear layer) + BatchNorm     ─→ one convolution with a bias
    external attention                            ─→ two small matrices and a bias (`ExternalAttention.folded`)
    relative attention + BatchNorm                ─→ the norm in the values' projection: probabilities sum to 1

Exact in real arithmetic: the tests prove it equal in float64, within 1e-9 of the output's deviation. Two norms
stay: that behind pyramid attention, whose shares depend on the unscaled branches, and the neck, which follows a pool.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from regard_models.attention.external import ExternalAttention
from regard_models.attention.relative import RelativeAttention

if TYPE_CHECKING:
    from collections.abc import Iterator

Network = TypeVar("Network", bound=nn.Module)


def fold(model: Network) -> Network:
    """Return a folded copy in eval mode; its outputs are the same, its state-dict keys are not.

    Raises:
        ValueError: the model is in train mode, in which norms follow the batch and nothing can be folded.
    """
    if model.training:
        raise ValueError("folding needs a model in eval mode; call .eval() first")
    folded = copy.deepcopy(model)
    for owner in list(folded.modules()):
        for layer, norm in _pairs(owner):
            _fold_norm(owner, layer, norm)
        for name, child in owner.named_children():
            if isinstance(child, ExternalAttention):
                setattr(owner, name, child.folded())
    return folded.requires_grad_(requires_grad=False)


def _pairs(owner: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a module's layers and of the norms that follow them."""
    yield from getattr(owner, "NORMS", ())
    if isinstance(owner, nn.Sequential):
        names = list(owner._modules)  # noqa: SLF001 - the names in order; children() leaves them out
        yield from pairwise(names)


def _fold_norm(owner: nn.Module, layer_name: str, norm_name: str) -> None:
    """Put the norm into the layer, if the two are of kinds that allow it, and the identity in the norm's place."""
    layer, norm = getattr(owner, layer_name), getattr(owner, norm_name)
    place, name = owner, layer_name
    if isinstance(layer, nn.Sequential):  # a deep stem: the norm follows its last convolution
        place, name, layer = layer, str(len(layer) - 1), layer[-1]
    if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(place, name, fuse_conv_bn_eval(layer, norm))
    elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
        setattr(place, name, fuse_linear_bn_eval(layer, norm))
    elif isinstance(layer, RelativeAttention) and isinstance(norm, nn.BatchNorm2d):
        layer.qkv = _with_norm_in_values(layer.qkv, norm)
    else:
        return
    setattr(owner, norm_name, nn.Identity())


def _with_norm_in_values(qkv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Scale and shift the last third of a projection, the values, and leave queries and keys alone.

    Every row of probabilities sums to 1, and so does the average that follows, so a shift of all values is
    the same shift of the result.
    """
    width = qkv.out_channels // 3
    values = nn.Conv2d(
        qkv.in_channels, width, 1, bias=False, device=qkv.weight.device, dtype=qkv.weight.dtype
    ).eval()
    values.weight = nn.Parameter(qkv.weight[2 * width :])
    fused = fuse_conv_bn_eval(values, norm)
    if fused.bias is None:
        raise ValueError("a norm without running statistics cannot be folded")
    wide = copy.deepcopy(qkv)
    wide.weight = nn.Parameter(torch.cat([qkv.weight[: 2 * width], fused.weight]))
    wide.bias = nn.Parameter(torch.cat([fused.bias.new_zeros(2 * width), fused.bias]))
    return wide
