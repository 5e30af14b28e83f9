"""What stands before the first stage: from pixels to a map of a quarter of the size.

    conv7    7x7 stride 2, norm, rectifier, 3x3 maximum stride 2    (ResNet as published; keys conv1, bn1)
    deep     three 3x3 in place of the 7x7, the last one wider      (DANet, EANet: 64, 64, 128)
    tiered   the same with growing channels                         (timm's BoTNet: 24, 32, 64)

Letters as in `regard_models.attention.module`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from regard_models.spec import ModelSpec


def stem_channels(spec: ModelSpec) -> tuple[int, ...]:
    """Return the channels of the stem's convolutions, the last being what the first stage receives."""
    width = spec.width
    defaults = {
        "conv7": (width,),
        "deep": (width, width, 2 * width),
        "tiered": (3 * width // 8, width // 2, width),
    }
    return spec.stem_channels or defaults[spec.stem]


def build_stem(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """Return `conv1` and `bn1`: what comes before the rectifier and the maximum that end every stem."""
    channels = stem_channels(spec)
    if spec.stem == "conv7":
        return nn.Conv2d(3, channels[0], 7, 2, 3, bias=False), nn.BatchNorm2d(channels[0])
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(zip((3, *channels[:-1]), channels, strict=True)):
        layers.append(nn.Conv2d(before, after, 3, 2 if index == 0 else 1, 1, bias=False))
        if index < len(channels) - 1:
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers), nn.BatchNorm2d(channels[-1])
