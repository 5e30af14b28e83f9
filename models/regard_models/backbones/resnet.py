"""A ResNet whose blocks have a place for attention, and every output of it from one forward pass.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv 1512.03385. State-dict keys
are torchvision's. Letters as in `regard_models.attention.module`; K classes, D channels of the embedding.

    extract: stem ─→ layer1 ─→ … ─→ the last stage that some wanted output needs ─→ (head)
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models.attention import AttentionModule, Maps
from regard_models.attention.mechanisms import MECHANISMS, Site
from regard_models.backbones.blocks import BLOCKS, BlockShape, ResidualBlock
from regard_models.backbones.heads import HEADS, Head
from regard_models.backbones.pools import NAMES, POOLS
from regard_models.backbones.stems import build_stem, stem_channels
from regard_models.errors import InputShapeError, SpecError, near
from regard_models.outputs import OutputInfo, check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from regard_models.spec import AttentionSlot, ModelSpec, Place

Built = TypeVar("Built")

STAGES = (1, 2, 3, 4)
HEAD = 5
"""The number of the step behind the last stage, where `embedding`, `logits` and a head's outputs are made."""


class ResNet(nn.Module):
    """The network that a spec describes.

    Attributes:
        spec: what it was built from.
        outputs: every output by name, in the order of the network, the embedding and the logits first.
        min_side: the smallest height and width it accepts; every layer pads, so one pixel is enough.
    """

    NORMS: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"),)
    min_side = 1

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv1, self.bn1 = build_stem(spec)
        channels = stem_channels(spec)[-1]
        for stage in STAGES:
            self.add_module(f"layer{stage}", _build_stage(spec, stage, channels))
            channels = spec.channels(stage)
        self.head = _build_head(spec)
        self.fc = nn.Linear(channels, spec.num_classes) if spec.num_classes and self.head is None else None
        self.neck = nn.BatchNorm1d(spec.embedding_channels, affine=False) if spec.neck == "norm" else None
        self.outputs: Mapping[str, OutputInfo] = self._describe()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`, or embeddings `(B, D)` where there is no head.

        A segmentation head gives logits `(B, K, H/8, W/8)`, each side rounded up.
        """
        name = "logits" if "logits" in self.outputs else "embedding"
        return self.extract(x, (name,))[name]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: `(B, 3, H, W) -> (B, C, H/32, W/32)`, each side rounded up."""
        return self.extract(x, ("layer4",))["layer4"]

    def extract(self, x: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Compute the outputs that are asked for, and nothing that they do not need.

        Args:
            x: normalised images `(B, 3, H, W)`, floating point.
            outputs: names from `self.outputs`.

        Raises:
            UnknownOutputError: a name that this model does not offer.
            InputShapeError: an input that is no batch of pictures with three channels.
        """
        check_outputs(outputs, self.outputs)
        _check_input(x)
        found: dict[str, Tensor] = {}
        last = max([0, *[_step(name) for name in outputs]])
        if last:
            x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in STAGES[:last]:
            x, maps = self._run_stage(stage, x, outputs)
            found |= {f"layer{stage}": x, **maps}
        if last == HEAD:
            found |= self._run_head(found, outputs)
        return {name: found[name] for name in outputs}

    def _describe(self) -> Mapping[str, OutputInfo]:
        behind = self.head.outputs if self.head else self._plain_outputs()
        offered = [*behind.values()]
        for stage in STAGES:
            channels, (height, width) = self.spec.channels(stage), self.spec.resolution(stage)
            axes = ("channel", "height", "width")
            text = f"feature map of stage {stage}, every {self.spec.input_size[0] // height} pixels"
            offered.append(OutputInfo(f"layer{stage}", "feature_map", (channels, height, width), axes, text))
            for index, block in enumerate(self._blocks(stage)):
                offered += [
                    OutputInfo(
                        f"layer{stage}.{index}.{name}", "attention", info.shape, info.axes, info.description
                    )
                    for name, info in block.maps(*block.shape.size).items()
                ]
        return {each.name: each for each in offered}

    def _plain_outputs(self) -> dict[str, OutputInfo]:
        stages, classes = self.spec.pool_stages, self.spec.num_classes
        maps = (
            "the last feature map" if stages == (4,) else f"the maps of stages {', '.join(map(str, stages))}"
        )
        text = f"{NAMES[self.spec.pool]} of {maps}" + (", standardised" if self.neck else "")
        shape = (self.spec.embedding_channels,)
        embedding = OutputInfo("embedding", "embedding", shape, ("channel",), text)
        logits = OutputInfo("logits", "logits", (classes,), ("class",), "class scores before the softmax")
        return {each.name: each for each in ((embedding, logits) if classes else (embedding,))}

    def _blocks(self, stage: int) -> list[ResidualBlock]:
        return list(getattr(self, f"layer{stage}"))

    def _run_stage(self, stage: int, x: Tensor, wanted: Collection[str]) -> tuple[Tensor, Maps]:
        found: Maps = {}
        for index, block in enumerate(self._blocks(stage)):
            place = f"layer{stage}.{index}."
            here = [name.removeprefix(place) for name in wanted if name.startswith(place)]
            x, maps = block.attend(x, here)
            found |= {place + name: value for name, value in maps.items()}
        return x, found

    def _run_head(self, maps: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
        if self.head is not None:
            found: dict[str, Tensor] = self.head.run(maps["layer4"], wanted)
            return found
        pooled = self.spec.pool_stages if "embedding" in wanted else ()
        fc = self.fc if "logits" in wanted else None
        stages = {*pooled} if fc is None else {*pooled, STAGES[-1]}
        vectors = {stage: POOLS[self.spec.pool](maps[f"layer{stage}"]) for stage in stages}
        found = {}
        if pooled:
            embedding = torch.cat([vectors[stage] for stage in pooled], 1)
            found["embedding"] = embedding if self.neck is None else self.neck(embedding)
        if fc is not None:
            found["logits"] = fc(vectors[STAGES[-1]])
        return found


def _step(output: str) -> int:
    """Return the number of the stage that makes an output, or `HEAD`."""
    return int(output[len("layer")]) if output.startswith("layer") else HEAD


def _check_input(x: Tensor) -> None:
    if x.ndim != len("BCHW") or x.shape[1] != len("RGB") or min(x.shape[2:]) < ResNet.min_side:
        raise InputShapeError(
            f"input of shape {tuple(x.shape)}: expected (batch, 3, height, width), no side empty"
        )
    if not x.is_floating_point():
        raise InputShapeError(f"input of {x.dtype}: expected normalised floating-point pixels")


def _build_stage(spec: ModelSpec, stage: int, channels_in: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    size = spec.resolution(stage - 1)
    for index in range(spec.depths[stage - 1]):
        shape = BlockShape(
            channels_in=channels_in,
            middle=spec.middle(stage),
            channels_out=spec.channels(stage),
            stride=spec.strides[stage - 1] if index == 0 else 1,
            dilation=spec.dilation(stage, index),
            groups=spec.groups,
            size=size,
        )
        replace, after = (_mechanism(spec, place, stage, index) for place in ("replace", "after"))
        blocks.append(BLOCKS[spec.block](shape, replace, after))
        channels_in, size = spec.channels(stage), spec.resolution(stage)
    return nn.Sequential(*blocks)


def _mechanism(
    spec: ModelSpec, place: Place, stage: int, index: int
) -> Callable[[Site], AttentionModule] | None:
    """Find the builder of the attention at one place of one block; the first slot that fits wins."""
    for each in spec.slots(place):
        if each.holds(stage, index, spec.depths[stage - 1]):
            return _builder(each, MECHANISMS, "attention mechanism")
    return None


def _build_head(spec: ModelSpec) -> Head | None:
    for each in spec.slots("head"):
        return _builder(each, HEADS, "head")(spec.channels(4), spec.num_classes, spec.resolution(4))
    return None


def _builder(
    slot: AttentionSlot, table: Mapping[str, Callable[..., Built]], what: str
) -> Callable[..., Built]:
    """Look a slot's mechanism up and give it the slot's arguments.

    Raises:
        SpecError: no such mechanism, or one that takes no such argument.
    """
    if slot.mechanism not in table:
        raise SpecError(f"no {what} {slot.mechanism!r}; {near(slot.mechanism, table)}")
    make = table[slot.mechanism]
    taken = inspect.signature(make).parameters
    for name, _ in slot.args:
        if name not in taken:
            raise SpecError(f"{what} {slot.mechanism} takes no {name!r}; {near(name, taken)}")
    return partial(make, **dict(slot.args))
