"""The named models: which spec each name stands for, and how its images are prepared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from regard_models.backbones import ResNet
from regard_models.errors import UnknownModelError, near
from regard_models.initial import initial_state
from regard_models.preprocessing import Preprocessing
from regard_models.spec import ModelSpec

DEFAULT_MODEL = "resnet_mini"
"""The plain small one: 8 ms on one core at 224 pixels, so that a demo answers at once on any machine."""


@dataclass(frozen=True)
class Entry:
    """A named model: its spec, and the preprocessing its published weights were trained with."""

    spec: ModelSpec
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


MINI = ModelSpec("basic", (1, 2, 2, 1), width=32)

MODELS: dict[str, Entry] = {
    "resnet18": Entry(ModelSpec("basic", (2, 2, 2, 2))),
    "resnet34": Entry(ModelSpec("basic", (3, 4, 6, 3))),
    "resnet50": Entry(ModelSpec("bottleneck", (3, 4, 6, 3))),
    "resnet101": Entry(ModelSpec("bottleneck", (3, 4, 23, 3))),
    "resnet152": Entry(ModelSpec("bottleneck", (3, 8, 36, 3))),
    "resnext50_32x4d": Entry(ModelSpec("bottleneck", (3, 4, 6, 3), groups=32, group_width=4)),
    "resnet_mini": Entry(MINI),
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
        return ResNet(spec)
    seed = int(torch.randint(2**31, (), device="cpu"))
    return build(spec, seed).to(torch.get_default_device())


def build(spec: ModelSpec, seed: int) -> ResNet:
    """Build the network of a spec with weights from a seed, without touching torch's global random state."""
    with torch.device("meta"):
        model = ResNet(spec)
    model.load_state_dict(initial_state(model, seed), assign=True)
    return model
