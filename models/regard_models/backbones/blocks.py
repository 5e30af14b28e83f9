"""Residual blocks with a slot for attention.

    basic        x ─→ [3x3] ─→ 3x3 ─→ + ─→ (attention)          [ ] a `replace` slot goes here
    bottleneck   x ─→ 1x1 ─→ [3x3] ─→ 1x1 ─→ + ─→ (attention)   ( ) an `after` slot goes here

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv 1512.03385; the stride sits
in the bottleneck's 3x3, as in torchvision, whose key names these are. Letters as in
`regard_models.attention.module`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention import AttentionModule, MapInfo, Maps
from regard_models.attention.mechanisms import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from regard_models.attention import AttentionModule as Attention

    Build = Callable[[Site], Attention]


@dataclass(frozen=True)
class BlockShape:
    """Channels in, in the middle and out; and what the 3x3 does.

    `size` is the height and width of the block's input at the model's own input size.
    """

    channels_in: int
    middle: int
    channels_out: int
    stride: int
    dilation: int
    groups: int
    size: tuple[int, int]

    def site(self, channels_in: int) -> Site:
        """Return the place of the 3x3 that a mechanism may replace, with `channels_in` arriving there."""
        return Site((channels_in, self.middle), self.stride, self.dilation, self.groups, self.size)

    def site_after(self) -> Site:
        """Return the place behind the block."""
        height, width = (-(-side // self.stride) for side in self.size)
        return Site((self.channels_out, self.channels_out), 1, 1, 1, (height, width))


class ResidualBlock(nn.Module):
    """What both kinds of block do: convolutions, each normalised, plus a shortcut, then a rectifier."""

    NORMS: ClassVar[tuple[tuple[str, str], ...]]
    """Names of the convolutions and of the norms that follow them, in order."""
    SLOT: ClassVar[str]
    """The convolution that attention may replace."""

    downsample: nn.Module | None
    attention: AttentionModule | None
    behind: str
    """What the names of the maps of the attention behind the block begin with."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape

    def _finish(self, after: Build | None) -> None:
        """Add what stands last in the state dict: the shortcut and the attention behind the block."""
        shape = self.shape
        changes = shape.stride != 1 or shape.channels_in != shape.channels_out
        self.downsample = _shortcut(shape) if changes else None
        self.attention = after(shape.site_after()) if after else None
        # Two mechanisms in one block would call their maps the same.
        self.behind = "after_" if isinstance(getattr(self, self.SLOT), AttentionModule) else ""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉)`."""
        return self.attend(x)[0]

    def attend(self, x: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, Maps]:
        """Return the block's result and the attention maps named in `wanted`."""
        maps: Maps = {}
        out = x
        last = self.NORMS[-1]
        for step in self.NORMS:
            layer, norm = (getattr(self, name) for name in step)
            if isinstance(layer, AttentionModule):
                out, found = layer.attend(out, wanted)
                maps.update(found)
                if layer.normalised:
                    continue
            else:
                out = layer(out)
            out = norm(out)
            if step is not last:
                out = functional.relu(out)
        out = functional.relu(out + (x if self.downsample is None else self.downsample(x)))
        if self.attention is not None:
            behind = [name.removeprefix(self.behind) for name in wanted if name.startswith(self.behind)]
            out, found = self.attention.attend(out, behind)
            maps.update({self.behind + name: value for name, value in found.items()})
        return out, maps

    def maps(self, height: int, width: int) -> dict[str, MapInfo]:
        """Describe the attention maps of this block for an input of `height` and `width`."""
        found: dict[str, MapInfo] = {}
        replaced = getattr(self, self.SLOT)
        if isinstance(replaced, AttentionModule):
            found |= replaced.maps(height, width)
        if self.attention is not None:
            stride = self.shape.stride
            behind = self.attention.maps(-(-height // stride), -(-width // stride))
            found |= {self.behind + name: info for name, info in behind.items()}
        return found


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; the first carries the stride and may be replaced by attention (as in timm)."""

    NORMS = (("conv1", "bn1"), ("conv2", "bn2"))
    SLOT = "conv1"

    def __init__(self, shape: BlockShape, replace: Build | None = None, after: Build | None = None) -> None:
        super().__init__(shape)
        self.conv1, self.bn1 = _middle(shape, shape.channels_in, replace)
        self.conv2 = _conv(shape.middle, shape.channels_out, 3, dilation=shape.dilation)
        self.bn2 = nn.BatchNorm2d(shape.channels_out)
        self._finish(after)


class Bottleneck(ResidualBlock):
    """A 3x3 convolution, or what attention puts in its place, between two 1x1."""

    NORMS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
    SLOT = "conv2"

    def __init__(self, shape: BlockShape, replace: Build | None = None, after: Build | None = None) -> None:
        super().__init__(shape)
        self.conv1 = _conv(shape.channels_in, shape.middle, 1)
        self.bn1 = nn.BatchNorm2d(shape.middle)
        self.conv2, self.bn2 = _middle(shape, shape.middle, replace)
        self.conv3 = _conv(shape.middle, shape.channels_out, 1)
        self.bn3 = nn.BatchNorm2d(shape.channels_out)
        self._finish(after)


BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _conv(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Make a convolution without bias that keeps the size but for its stride."""
    padding = kernel // 2 * dilation
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)


def _shortcut(shape: BlockShape) -> nn.Sequential:
    """Make the projection that fits the shortcut to the block's result."""
    return nn.Sequential(
        _conv(shape.channels_in, shape.channels_out, 1, stride=shape.stride),
        nn.BatchNorm2d(shape.channels_out),
    )


def _middle(shape: BlockShape, channels_in: int, replace: Build | None) -> tuple[nn.Module, nn.Module]:
    """Make the 3x3 or what replaces it, and the norm behind it."""
    if replace is None:
        conv = _conv(
            channels_in, shape.middle, 3, stride=shape.stride, dilation=shape.dilation, groups=shape.groups
        )
        return conv, nn.BatchNorm2d(shape.middle)
    attention = replace(shape.site(channels_in))
    return attention, nn.Identity() if attention.normalised else nn.BatchNorm2d(shape.middle)
