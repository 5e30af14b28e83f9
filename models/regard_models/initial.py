"""Weights before any training: a value for every key, from a seed alone.

The values depend on the seed, the key and the shape, and on nothing else: not on the global random state
(which stays untouched), the order of construction or the device. They follow He et al., 2015, arXiv
1502.01852 with fan in, so that activations keep their scale in eval mode, where a fresh BatchNorm is the
identity; the last norm of a residual branch starts at 0.3 so that the sum over dozens of blocks stays
finite and no single block dominates.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard_models.backbones.blocks import ResidualBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

BRANCH_SCALE = 0.3
NORM_VALUES = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}


def initial_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return a full state dict for `model`, whose own tensors may be on the meta device."""
    return {key: _value(owner, name, key, seed) for key, owner, name in _tensors(model)} | _exceptions(model)


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for key in model.state_dict():
        path, _, name = key.rpartition(".")
        yield key, model.get_submodule(path), name


def _value(owner: nn.Module, name: str, key: str, seed: int) -> Tensor:
    like: Tensor = getattr(owner, name)
    if isinstance(owner, nn.BatchNorm1d | nn.BatchNorm2d):
        return torch.full(like.shape, NORM_VALUES[name], dtype=like.dtype)
    if like.ndim <= 1:
        return torch.zeros(like.shape)
    gain = 2.0 if isinstance(owner, nn.Conv2d) else 1.0
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{key}".encode()))
    scale = (gain / like[0].numel()) ** 0.5
    return torch.randn(like.shape, generator=generator).mul_(scale)


def _exceptions(model: nn.Module) -> dict[str, Tensor]:
    """Return the residual branches' scale, and what other modules say in `starts_at`."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        values: dict[str, float] = getattr(module, "starts_at", {})
        if isinstance(module, ResidualBlock):
            values = {f"{module.NORMS[-1][1]}.weight": BRANCH_SCALE}
        for name, value in values.items():
            found[f"{path}.{name}".lstrip(".")] = torch.full(module.get_parameter(name).shape, value)
    return found
