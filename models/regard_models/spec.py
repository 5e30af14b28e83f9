"""What a network is, as one frozen value.

A spec says everything that decides the shapes and the arithmetic of a network and nothing about its weights.
Two networks with equal specs have the same state-dict keys; the canonical JSON of a spec travels in the
metadata of every weights file and in the fingerprint that clients see.

    stem ─→ layer1 ─→ layer2 ─→ layer3 ─→ layer4 ─→ pool ─→ neck, fc
             └─ blocks, each with a slot: attention replaces its 3x3, or follows it    (place: replace, after)
                                                └────────→ segmentation head          (place: head)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from regard_models.errors import SpecError, near
from regard_models.limits import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_SIDE,
    check_arguments,
    check_numbers,
)

Value: TypeAlias = "int | float | bool | str | tuple[int, ...]"
Place = Literal["replace", "after", "head"]
Block = Literal["basic", "bottleneck"]
Stem = Literal["conv7", "deep", "tiered"]
Pool = Literal["average", "gem"]
Neck = Literal["none", "norm"]

EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True)
class AttentionSlot:
    """One mechanism at one kind of place in the trunk.

    Attributes:
        mechanism: a key of `regard_models.attention.MECHANISMS`, or of `backbones.heads.HEADS` for a head.
        place: `replace` a block's 3x3 convolution (a basic block's first), `after` a block, or `head`.
        stages: the stages (1 to 4) whose blocks it applies to; ignored for a head.
        blocks: indices of blocks within each stage, negative from the end; empty means every block.
        args: the mechanism's own arguments by name, sorted; `slot()` makes them from keywords.
    """

    mechanism: str
    place: Place
    stages: tuple[int, ...] = (1, 2, 3, 4)
    blocks: tuple[int, ...] = ()
    args: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if self.place not in get_args(Place):
            raise SpecError(f"attention place {self.place!r}: expected one of {', '.join(get_args(Place))}")
        check_numbers("attention stages", self.stages, (1, 4))
        check_numbers("attention blocks", self.blocks, (-MOST_BLOCKS, MOST_BLOCKS))
        check_arguments(f"attention {self.mechanism!r:.80}", self.args)

    def holds(self, stage: int, block: int, depth: int) -> bool:
        """Say whether the slot applies to block `block` of `depth` in stage `stage`."""
        return stage in self.stages and (not self.blocks or bool({block, block - depth} & set(self.blocks)))


def slot(
    mechanism: str,
    place: Place,
    *,
    stages: tuple[int, ...] = (1, 2, 3, 4),
    blocks: tuple[int, ...] = (),
    **args: Value,
) -> AttentionSlot:
    """Make an `AttentionSlot` whose mechanism's arguments are given as keywords."""
    return AttentionSlot(mechanism, place, stages, blocks, tuple(sorted(args.items())))


@dataclass(frozen=True)
class ModelSpec:
    """A ResNet with attention slots.

    Attributes:
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 with four times the channels).
        depths: blocks in each of the four stages.
        width: channels of the first stage; each later stage doubles them.
        groups: groups of a bottleneck's 3x3 (ResNeXt's cardinality).
        group_width: ResNeXt's base width: the 3x3 has `planes * group_width // 64 * groups` channels.
        stem: `conv7` (7x7), `deep` (three 3x3: c, c, 2c) or `tiered` (three 3x3 that grow, as in timm).
        stem_channels: channels of the stem's convolutions, the last being the first stage's input.
        strides: stride of each stage's first block.
        dilations: per stage, the dilations of its blocks' 3x3, the last one repeated; empty means 1.
        attention: where attention sits.
        pool: what makes a vector of a stage's map: its `average`, or its generalised mean, `gem`.
        pool_stages: the stages whose vectors, one behind the other, make the embedding.
        neck: what follows then: `none`, or a `norm` that gives each channel mean 0 and variance 1 by what training saw
            (Luo et al., *Bag of Tricks and a Strong Baseline for Deep Person Re-identification*, 2019, arXiv
            1903.07071). Without it channels that are never negative leave any two embeddings alike.
        num_classes: classes of the head; 0 means no head, and `forward` then gives the embedding.
        input_size: height and width that `outputs` states shapes for and that serving prepares images for.
    """

    block: Block
    depths: tuple[int, int, int, int]
    width: int = 64
    groups: int = 1
    group_width: int = 64
    stem: Stem = "conv7"
    stem_channels: tuple[int, ...] = ()
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    dilations: tuple[tuple[int, ...], ...] = ()
    attention: tuple[AttentionSlot, ...] = ()
    pool: Pool = "average"
    pool_stages: tuple[int, ...] = (4,)
    neck: Neck = "none"
    num_classes: int = 1000
    input_size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        self._check_numbers()
        checks = (
            (self.block in EXPANSION, f"block {self.block!r}: expected basic or bottleneck"),
            (self.stem in get_args(Stem), f"stem {self.stem!r}: expected one of {', '.join(get_args(Stem))}"),
            (self.pool in get_args(Pool), f"pool {self.pool!r}: expected one of {', '.join(get_args(Pool))}"),
            (self.neck in get_args(Neck), f"neck {self.neck!r}: expected one of {', '.join(get_args(Neck))}"),
            (
                (self.pool, self.pool_stages, self.neck) == ("average", (4,), "none")
                or not self.slots("head"),
                "a pool, its stages or a neck beside a head, which makes the embedding itself",
            ),
            (
                sorted({*self.pool_stages}) == [*self.pool_stages] != [],
                f"pool_stages {self.pool_stages}: expected some stages, rising",
            ),
            (
                len(self.stem_channels) in (0, 1 if self.stem == "conv7" else 3),
                f"stem_channels {self.stem_channels}: expected one for each convolution of a {self.stem} stem",
            ),
            (
                min(self.middle(stage) for stage in (1, 2, 3, 4)) > 0,
                f"width {self.width} leaves no channels for group_width {self.group_width}",
            ),
        )
        for holds, message in checks:
            if not holds:
                raise SpecError(message)

    def _check_numbers(self) -> None:
        """Refuse what annotations alone do not stop in a file's metadata or a caller's override."""
        for name in ("width", "groups", "group_width"):
            check_numbers(name, (getattr(self, name),), (1, MOST_CHANNELS), 1)
        check_numbers("num_classes", (self.num_classes,), (0, MOST_CLASSES), 1)
        check_numbers("depths", self.depths, (1, MOST_BLOCKS), 4)
        check_numbers("strides", self.strides, (1, MOST_SIDE), 4)
        check_numbers("input_size", self.input_size, (1, MOST_SIDE), 2)
        check_numbers("pool_stages", self.pool_stages, (1, 4))
        check_numbers("stem_channels", self.stem_channels, (1, MOST_CHANNELS))
        dilations: Any = self.dilations
        if not isinstance(dilations, tuple) or len(dilations) not in (0, 4):
            raise SpecError(f"dilations {dilations!r:.80}: expected none or four tuples")
        for stage in dilations:
            check_numbers("dilations", stage, (1, MOST_SIDE))
        if not all(isinstance(each, AttentionSlot) for each in self.attention):
            raise SpecError(f"attention {self.attention!r:.80}: expected slots")

    def planes(self, stage: int) -> int:
        """Nominal channels of a stage, before a bottleneck's expansion."""
        return self.width << (stage - 1)

    def middle(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of a stage."""
        if self.block == "basic":
            return self.planes(stage)
        return self.planes(stage) * self.group_width // 64 * self.groups

    def channels(self, stage: int) -> int:
        """Channels of a stage's output."""
        return self.planes(stage) * EXPANSION[self.block]

    @property
    def embedding_channels(self) -> int:
        """Channels of the embedding, where no head makes it."""
        return sum(map(self.channels, self.pool_stages))

    def dilation(self, stage: int, block: int) -> int:
        """Dilation of the 3x3 of one block."""
        of_stage = self.dilations[stage - 1] if self.dilations else ()
        return of_stage[min(block, len(of_stage) - 1)] if of_stage else 1

    def resolution(self, stage: int, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width of a stage's output (0: the stem's) for an input of `size`, by default its own."""
        height, width = size or self.input_size
        for stride in (2, 2, *self.strides[:stage]):
            height, width = -(-height // stride), -(-width // stride)
        return height, width

    def slots(self, place: Place) -> tuple[AttentionSlot, ...]:
        """The attention slots of one kind of place."""
        return tuple(each for each in self.attention if each.place == place)

    def override(self, **changes: Any) -> ModelSpec:
        """Return a copy with fields changed; `input_size` may be one number for a square.

        Raises:
            SpecError: a field does not exist or the result describes no network.
        """
        fields = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in fields:
                raise SpecError(f"a spec has no field {name!r}; {near(name, fields)}")
        size = changes.get("input_size")
        if isinstance(size, int):
            changes["input_size"] = (size, size)
        return dataclasses.replace(self, **_frozen(changes))

    def to_json(self) -> str:
        """Return the canonical JSON: keys sorted, no spaces, every field present."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            SpecError: the text is no JSON object of a spec's fields.
        """
        try:
            fields = _frozen(json.loads(text))
            slots = tuple(AttentionSlot(**each) for each in fields.pop("attention", ()))
            return cls(**fields, attention=slots)
        except (TypeError, AttributeError, json.JSONDecodeError, RecursionError) as cause:
            raise SpecError(f"not a model spec: {cause}") from cause


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, all the way down."""
    if isinstance(value, list):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return value
