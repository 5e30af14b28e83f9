"""From a publisher's state dict to our model, and from a publisher's file to ours."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard_models.attention.original import external_memories
from regard_models.attention.relative import RelativeAttention, resize_table
from regard_models.backbones import ResNet
from regard_models.backbones.heads import DualHead
from regard_models.bundle import save_bundle
from regard_models.convert.checkpoint import read_checkpoint
from regard_models.convert.sources import SOURCES, Source, find_source
from regard_models.errors import SpecError, WeightsError
from regard_models.registry import entry
from regard_models.state import differences, load_strictly, plain, renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regard_models.spec import ModelSpec

DEEP_STEM = ("conv1.0.weight", "conv1.3.weight", "conv1.6.weight")
CLASSIFIERS = ("fc.weight", "head.classify.weight")
HEAD_SIZE = (60, 60)
"""Size that a head by itself states its shapes for: an eighth of the 480 pixels that its network was trained at."""
LIKELY = 0.5
"""Share of a model's tensors that must fit before a source is called likely."""


def from_published(
    source: str, state_dict: Mapping[str, Any], *, input_size: int | tuple[int, int] | None = None
) -> nn.Module:
    """Build our model with a publisher's weights, in eval mode.

    Args:
        source: one of `SOURCES`, such as `timm/skresnet18`.
        state_dict: the publisher's tensors under the publisher's keys, wrapped or prefixed as they come.
        input_size: height and width to prepare the model for, by default the published one. Tables of
            relative
            positions are resized to it (`regard_models.attention.relative`).

    Raises:
        UnknownSourceError: no such source.
        WeightsError: keys or shapes that differ, the first few of them, and the source that they look like.
    """
    known = find_source(source)
    tensors = _our_tensors(known, plain(state_dict))
    model = _empty(known, tensors, input_size)
    _fit_shapes(model, tensors, resize=input_size is not None)
    if _differ(model, tensors):
        hint = _likely(plain(state_dict), besides=source)
        try:
            load_strictly(model, tensors, where=f"checkpoint from {source}")
        except WeightsError as fault:
            raise WeightsError(f"{fault}{hint}") from None
    load_strictly(model, tensors, where=f"checkpoint from {source}")
    return model.eval()


def convert_file(
    source: str, file: str | Path, output: str | Path, *, input_size: int | tuple[int, int] | None = None
) -> ResNet:
    """Convert a publisher's file into a .safetensors file that `load_bundle` serves from, and return the model.

    Raises:
        UnknownSourceError: no such source.
        WeightsError: as `from_published` and `read_checkpoint`.
        SpecError: the source is a part of a network, not one to serve.
    """
    ready = find_source(source).preprocessing
    model = from_published(source, read_checkpoint(file), input_size=input_size)
    if not isinstance(model, ResNet):
        raise SpecError(f"{source} is a part of a network; convert the whole network to serve it")
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if input_size is not None:
        ready = ready.resized(model.spec.input_size)
    where = f"{source} from {Path(file).name}, sha256 {digest}"
    save_bundle(output, model, preprocessing=ready, source=where, trained=True)
    return model


def _our_tensors(source: Source, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what is dropped on purpose, rename the rest, and bring memories of EA into our shape."""
    kept = {
        key: value
        for key, value in tensors.items()
        if not any(re.search(each, key) for each in source.dropped)
    }
    return external_memories(renamed(kept, source.rules))


def _empty(
    source: Source, tensors: Mapping[str, Tensor], input_size: int | tuple[int, int] | None
) -> nn.Module:
    """Build the source's model on the meta device, as large as the tensors say it is."""
    with torch.device("meta"):
        if not source.model:
            classes = len(tensors.get("classify.weight", ()))
            width, channels = (
                tensors["position_in.conv.weight"].shape[:2]
                if "position_in.conv.weight" in tensors
                else (512, 2048)
            )
            return DualHead(channels, classes, HEAD_SIZE, reduction=channels // width)
        return ResNet(_spec(entry(source.model).spec, source, tensors, input_size))


def _spec(
    spec: ModelSpec, source: Source, tensors: Mapping[str, Tensor], input_size: int | tuple[int, int] | None
) -> ModelSpec:
    """Adapt a registered spec to what a checkpoint says of itself."""
    changes: dict[str, Any] = {}
    for key in CLASSIFIERS:
        if key in tensors:
            changes["num_classes"] = len(tensors[key])
    if all(key in tensors for key in DEEP_STEM):
        changes["stem_channels"] = tuple(len(tensors[key]) for key in DEEP_STEM)
    elif spec.stem == "deep" and "conv1.weight" in tensors:
        changes["stem"] = "conv7"
    if source.layer4:
        changes["dilations"] = (*spec.dilations[:3], source.layer4)
    if input_size is not None:
        changes["input_size"] = input_size
    return spec.override(**changes)


def _fit_shapes(model: nn.Module, tensors: dict[str, Tensor], *, resize: bool) -> None:
    """Drop the two axes that a 1x1 convolution has and our linear layer lacks; resize position tables if told to."""
    expected = model.state_dict()
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Linear) and weight is not None and weight.shape[2:] == (1, 1):
            tensors[f"{name}.weight"] = weight.flatten(1)
        if isinstance(module, RelativeAttention) and resize:
            for table in (f"{name}.height", f"{name}.width"):
                if table in tensors and tensors[table].ndim == expected[table].ndim:
                    tensors[table] = resize_table(tensors[table], (len(expected[table]) + 1) // 2)


def _differ(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    shapes = {key: tuple(each.shape) for key, each in model.state_dict().items()}
    return bool(differences(shapes, tensors))


def _likely(tensors: Mapping[str, Tensor], *, besides: str) -> str:
    """Name the source whose model these tensors fit best, if they fit any."""
    best, share = "", LIKELY
    for name, source in SOURCES.items():
        if find_source(besides) is source:
            continue
        try:
            ours = _our_tensors(source, tensors)
            model = _empty(source, ours, None)
        except (WeightsError, SpecError):
            continue
        _fit_shapes(model, ours, resize=False)
        expected = model.state_dict()
        fitting = sum(key in ours and ours[key].shape == each.shape for key, each in expected.items())
        if fitting > share * max(len(expected), len(ours)):
            best, share = name, fitting / max(len(expected), len(ours))
    return f"; it looks like {best}" if best else "; it looks like no known source"
