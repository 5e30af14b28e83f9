"""From a publisher's tensors to ours: what is dropped, renamed and reshaped, and the empty model that they are for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard_models.attention.original import external_memories
from regard_models.attention.relative import RelativeAttention, resize_table
from regard_models.backbones.heads import DualHead
from regard_models.errors import building
from regard_models.registry import empty, entry
from regard_models.state import renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regard_models.convert.sources import Source
    from regard_models.spec import ModelSpec

DEEP_STEM = ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight")
CLASSIFIERS = ("fc.weight", "head.classify.weight")
HEAD_SIZE = (60, 60)
"""Size that a head by itself states its shapes for: an eighth of the 480 pixels its network was trained at."""


def fit(
    source: Source, published: Mapping[str, Tensor], input_size: int | tuple[int, int] | None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the source's model on the meta device, and the publisher's tensors under its keys, in its shapes.

    Nothing is checked here: whether they fit is for `load_strictly` to say.

    Raises:
        WeightsError: two keys become one.
        SpecError: what the tensors say of their network describes none.
    """
    kept = {key: value for key, value in published.items() if not _dropped(key, source)}
    tensors = external_memories(renamed(kept, source.rules))
    model = empty(_spec(source, tensors, input_size)) if source.model else _head(tensors)
    _reshape(model, tensors, resize=input_size is not None)
    return model, tensors


def _dropped(key: str, source: Source) -> bool:
    return any(re.search(pattern, key) for pattern in source.dropped)


def _rows(tensors: Mapping[str, Tensor], key: str) -> int:
    """Return the length of a tensor's first axis; 0 if there is none."""
    return tensors[key].shape[0] if key in tensors and tensors[key].ndim else 0


def _head(tensors: Mapping[str, Tensor]) -> DualHead:
    """Build DANet's head by itself, as wide as its first convolution says, or as published."""
    first = tensors.get("position_in.conv.weight", torch.empty(512, 2048, 3, 3))
    width, channels = first.shape[:2] if first.ndim == len("OIHW") and first.numel() else (512, 2048)
    with torch.device("meta"), building("the head"):
        return DualHead(
            channels, _rows(tensors, "classify.weight"), HEAD_SIZE, reduction=max(1, channels // width)
        )


def _spec(
    source: Source, tensors: Mapping[str, Tensor], input_size: int | tuple[int, int] | None
) -> ModelSpec:
    """Adapt the registered spec to what the tensors say of their network: its classes and its stem."""
    spec = entry(source.model).spec
    changes: dict[str, Any] = {}
    for key in CLASSIFIERS:
        if key in tensors:
            changes["num_classes"] = _rows(tensors, key)
    stem = tuple(_rows(tensors, key) for key in DEEP_STEM)
    if all(stem):
        changes["stem_channels"] = stem
    elif spec.stem == "deep" and "conv1.weight" in tensors:
        changes["stem"] = "conv7"
    if source.layer4:
        changes["dilations"] = (*spec.dilations[:3], source.layer4)
    if input_size is not None:
        changes["input_size"] = input_size
    return spec.override(**changes)


def _reshape(model: nn.Module, tensors: dict[str, Tensor], *, resize: bool) -> None:
    """Drop the two axes that a 1x1 convolution has and a linear layer lacks; resize position tables if told to."""
    expected = model.state_dict()
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Linear) and weight is not None and weight.shape[2:] == (1, 1):
            tensors[f"{name}.weight"] = weight.flatten(1)
        if isinstance(module, RelativeAttention) and resize:
            for table in (f"{name}.height", f"{name}.width"):
                if table in tensors and tensors[table].ndim == expected[table].ndim:
                    tensors[table] = resize_table(tensors[table], (len(expected[table]) + 1) // 2)
