"""The named models: which spec each name stands for, and how its images are prepared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from regard_models.backbones import ResNet
from regard_models.errors import UnknownModelError, building, near
from regard_models.initial import initial_state
from regard_models.preprocessing import Preprocessing
from regard_models.spec import AttentionSlot, ModelSpec, slot

DEFAULT_MODEL = "ea_mini"
"""A small one, with trained weights, so that a demo answers at once and sensibly on any machine."""


@dataclass(frozen=True)
class Entry:
    """A named model: its spec, and the preprocessing its published weights were trained with."""

    spec: ModelSpec
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


RESNET50 = ModelSpec("bottleneck", (3, 4, 6, 3))
RESNET101 = ModelSpec("bottleneck", (3, 4, 23, 3))
MINI = ModelSpec(
    "basic", (1, 2, 2, 1), width=32, pool="gem", pool_stages=(2, 3, 4), neck="norm", input_size=(160, 160)
)
"""The trunk of the small models: 1.9 M parameters, an embedding of 448, 0.19 G multiplications at 160."""
MINI_IMAGES = Preprocessing(160, 160, 160)
"""The whole shorter side: what a small picture shows stands not only in its middle."""


def _with(spec: ModelSpec, *slots: AttentionSlot, **changes: Any) -> Entry:
    return Entry(spec.override(attention=slots, **changes))


def _mini(*slots: AttentionSlot) -> Entry:
    return Entry(MINI.override(attention=slots), MINI_IMAGES)


def _dilated(spec: ModelSpec, head: str, layer4: tuple[int, ...], num_classes: int) -> Entry:
    """Make a segmentation network: a deep stem, and strides of the last two stages turned into dilations."""
    return Entry(
        spec.override(
            stem="deep",
            strides=(1, 2, 1, 1),
            dilations=((), (), (1, 2), layer4),
            attention=(slot(head, "head"),),
            num_classes=num_classes,
            input_size=(480, 480),
        ),
        Preprocessing(480, 480, 520),
    )


SK_SPLIT = slot("selective_kernel", "replace", least=0, divisor=8, split_input=True)
SK_BASIC = slot("selective_kernel", "replace", ratio=8, least=0, divisor=16, split_input=True)
SK_PAPER = slot("selective_kernel", "replace")
EPSA = slot("pyramid", "replace")
BOTTLENECK_TRANSFORMER = (
    slot("relative", "replace", stages=(3,), blocks=(-1,)),
    slot("relative", "replace", stages=(4,)),
)
RESNEXT = {"groups": 32, "group_width": 4}

MODELS: dict[str, Entry] = {
    "resnet18": Entry(ModelSpec("basic", (2, 2, 2, 2))),
    "resnet34": Entry(ModelSpec("basic", (3, 4, 6, 3))),
    "resnet50": Entry(RESNET50),
    "resnet101": Entry(RESNET101),
    "resnet152": Entry(ModelSpec("bottleneck", (3, 8, 36, 3))),
    "resnext50_32x4d": Entry(RESNET50.override(**RESNEXT)),
    "epsanet50": _with(RESNET50, EPSA),
    "epsanet101": _with(RESNET101, EPSA),
    "skresnet18": _with(ModelSpec("basic", (2, 2, 2, 2)), SK_BASIC),
    "skresnet34": _with(ModelSpec("basic", (3, 4, 6, 3)), SK_BASIC),
    "skresnet50": _with(RESNET50, SK_SPLIT),
    "skresnext50_32x4d": _with(RESNET50, SK_PAPER, **RESNEXT),
    "skresnext101_32x4d": _with(RESNET101, SK_PAPER, **RESNEXT),
    "sk_resnet50": _with(RESNET50, slot("selective_kernel_grouped", "replace")),
    "sk_resnet101": _with(RESNET101, slot("selective_kernel_grouped", "replace")),
    "botnet26t_256": Entry(
        ModelSpec(
            "bottleneck", (2, 2, 2, 2), stem="tiered", attention=BOTTLENECK_TRANSFORMER, input_size=(256, 256)
        ),
        Preprocessing(256, 256, 269, "bicubic"),
    ),
    "botnet50": _with(RESNET50, slot("relative", "replace", stages=(4,))),
    "danet_resnet50": _dilated(RESNET50, "dual", (4, 8, 16), 19),
    "danet_resnet101": _dilated(RESNET101, "dual", (4, 8, 16), 19),
    "eanet_resnet50": _dilated(RESNET50, "external", (2, 8, 16), 21),
    "eanet_resnet101": _dilated(RESNET101, "external", (2, 8, 16), 21),
    "resnet_mini": _mini(),
    "ea_mini": _mini(slot("external", "after", stages=(3, 4), blocks=(-1,))),
    "mhsa_mini": _mini(*BOTTLENECK_TRANSFORMER),
    "sk_mini": _mini(SK_BASIC),
    "da_mini": _mini(slot("dual", "after", stages=(3, 4), blocks=(-1,))),
    "epsa_mini": _mini(slot("pyramid", "replace", groups=(1, 2, 4, 8), reduction=8)),
    "resnet_tiny": Entry(
        ModelSpec("basic", (1, 1, 1, 1), width=8, num_classes=10, input_size=(32, 32)),
        Preprocessing(32, 32, 32),
    ),
}


def list_models() -> list[str]:
    """Return the names that `create` knows, sorted."""
    return sorted(MODELS)


def entry(name: str) -> Entry:
    """Look a name up.

    Raises:
        UnknownModelError: with the names that are near.
    """
    if name not in MODELS:
        raise UnknownModelError(f"no model {name!r}; {near(name, MODELS)}")
    return MODELS[name]


def create(name: str, **overrides: Any) -> ResNet:
    """Build a named model with fresh weights, in train mode, as `torch.nn` modules are.

    Args:
        name: one of `list_models()`.
        **overrides: fields of `ModelSpec` to change, such as `num_classes=10`, `width=8`, `input_size=64`.

    The weights are drawn from torch's global random state, so `torch.manual_seed` decides them; under
    `torch.device("meta")` none are drawn.

    Raises:
        UnknownModelError: no such name.
        SpecError: an override that does not exist, or that describes no network.
    """
    spec = entry(name).spec.override(**overrides)
    if torch.get_default_device().type == "meta":
        return empty(spec)
    seed = int(torch.randint(2**31, (), device="cpu"))
    return build(spec, seed).to(torch.get_default_device())


def build(spec: ModelSpec, seed: int) -> ResNet:
    """Build the network of a spec with weights from a seed, without touching torch's global random state."""
    model = empty(spec)
    model.load_state_dict(initial_state(model, seed), assign=True)
    return model


def empty(spec: ModelSpec) -> ResNet:
    """Build the network of a spec on the meta device: shapes, and no memory for weights.

    Raises:
        SpecError: the spec describes no network.
    """
    with torch.device("meta"), building("the spec"):
        return ResNet(spec)
