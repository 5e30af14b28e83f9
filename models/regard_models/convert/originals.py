"""Modules of the published classes as sources of their own, such as `original/SKAttention`.

    state dict ─→ arguments, given or read from its shapes ─→ from_original ─→ load_original ─→ safetensors

No network comes of them, so nothing can be served; what is written is one module's weights under our keys, with the
class and its arguments in the metadata, for `load_module` to read. What shapes cannot say is asked for where there
is no published default (heads), and otherwise left at that default (stride, dropout) unless it is given.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from regard_models.attention.original import ORIGINALS, from_original, load_original
from regard_models.bundle import MODULE_FORMAT, read_tensors
from regard_models.errors import SpecError, WeightsError, near
from regard_models.state import load_strictly, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    Shapes = Mapping[str, tuple[int, ...]]
    Arguments = dict[str, Any]

PREFIX = "original/"


def original_arguments(
    class_name: str, state_dict: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Arguments:
    """Complete a published constructor's arguments by what the shapes of its weights say.

    Args:
        class_name: one of `regard_models.attention.original.ORIGINALS`.
        state_dict: the class's weights under their published keys, wrapped or prefixed as they come.
        given: arguments that are known; they win over shapes.

    Raises:
        SpecError: no such class, or an argument that shapes cannot say.
        WeightsError: a tensor that says an argument is missing or of another kind.
    """
    if class_name not in ORIGINALS:
        raise SpecError(f"no published class {class_name!r}; {near(class_name, ORIGINALS)}")
    known = dict(given or {})
    shapes = {key: tuple(value.shape) for key, value in plain(state_dict).items()}
    try:
        return _READERS.get(class_name, _nothing)(shapes, known) | known
    except SpecError:
        raise
    except (LookupError, ValueError, TypeError, ZeroDivisionError) as cause:
        raise WeightsError(
            f"the state dict does not look like {class_name}'s: its arguments cannot be read from it "
            f"({type(cause).__name__}: {cause})"
        ) from cause


def load_published(class_name: str, state_dict: Mapping[str, Any], args: Mapping[str, Any]) -> nn.Module:
    """Build our module for a published class with its weights, in eval mode.

    Raises:
        SpecError: arguments that describe no module.
        WeightsError: keys or shapes that differ.
    """
    with torch.device("meta"):
        module = from_original(class_name, args)
    load_original(module, state_dict)
    return module.eval()


def save_module(
    path: str | Path, module: nn.Module, class_name: str, args: Mapping[str, Any], *, source: str
) -> None:
    """Write what `load_published` returned as a .safetensors file that `load_module` reads."""
    described = json.dumps(dict(args), sort_keys=True)
    metadata = {"format": MODULE_FORMAT, "class": class_name, "args": described, "source": source}
    save_file(module.state_dict(), str(path), metadata)


def load_module(path: str | Path) -> nn.Module:
    """Read a module that `save_module` or `regard convert original/…` wrote, in eval mode.

    Raises:
        WeightsError: the file is missing, is none of these, or its tensors do not fit its class.
        SpecError: its arguments describe no module.
    """
    tensors, metadata = read_tensors(Path(path))
    if metadata.get("format") != MODULE_FORMAT:
        raise WeightsError(
            f"{path}: no module of a published class (its metadata lacks format={MODULE_FORMAT})"
        )
    try:
        class_name, args = metadata["class"], json.loads(metadata["args"])
        with torch.device("meta"):
            module = from_original(class_name, dict(args))
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as cause:
        raise WeightsError(f"{path}: not the description of a module: {cause}") from cause
    load_strictly(module, tensors, where=str(path))
    return module.eval()


def _asked(given: Arguments, *names: str) -> list[Any]:
    """Return arguments that only the caller knows."""
    missing = [name for name in names if name not in given]
    if missing:
        example = json.dumps(dict.fromkeys(missing, 8))
        raise SpecError(f"shapes do not say {', '.join(missing)}: give it, such as --args '{example}'")
    return [given[name] for name in names]


def _nothing(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - the class takes nothing that matters
    return {}


def _external(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - shapes say everything
    return {"c": shapes["conv1.weight"][0]}


def _external_k(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - shapes say everything
    return {"c": shapes["conv1.weight"][0], "k": shapes["linear_0.weight"][0]}


def _multi_head(shapes: Shapes, given: Arguments) -> Arguments:
    (heads,) = _asked(given, "h")
    d_k, d_v = (shapes[f"fc_{name}.weight"][0] // heads for name in "qv")
    return {"d_model": shapes["fc_o.weight"][0], "d_k": d_k, "d_v": d_v}


def _simplified(shapes: Shapes, given: Arguments) -> Arguments:
    _asked(given, "h")
    return {"d_model": shapes["fc_o.weight"][0]}


def _selective(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - shapes say everything
    kernels = [
        shapes[f"convs.{index}.conv.weight"] for index in range(_count(shapes, "convs.{}.conv.weight"))
    ]
    channel, of_group = kernels[0][:2]
    # The descriptor is max(L, channel // reduction): as long as L where the reduction leaves 1.
    return {
        "channel": channel,
        "kernels": [each[2] for each in kernels],
        "reduction": channel,
        "group": channel // of_group,
        "L": shapes["fc.weight"][0],
    }


def _position(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - shapes say everything
    return {"d_model": shapes["cnn.weight"][0], "kernel_size": shapes["cnn.weight"][2]}


def _channel(shapes: Shapes, given: Arguments, branch: str = "") -> Arguments:
    conv, positions = shapes[f"{branch}cnn.weight"], shapes[f"{branch}pa.fc_o.weight"][0]
    side = math.isqrt(positions)
    height, width = (side, side) if side**2 == positions else _asked(given, "H", "W")
    return {"d_model": conv[0], "kernel_size": conv[2], "H": height, "W": width}


def _dual(shapes: Shapes, given: Arguments) -> Arguments:
    return _channel(shapes, given, "channel_attention_module.")


def _excitation(shapes: Shapes, given: Arguments) -> Arguments:  # noqa: ARG001 - shapes say everything
    between, channels = shapes["fc1.weight"][:2]
    return {"channels": channels, "reduction": channels // between}


def _pyramid(shapes: Shapes, given: Arguments) -> Arguments:
    (channels,) = _asked(given, "inplans")
    branches = [shapes[f"conv_{index}.weight"] for index in (1, 2, 3, 4)]
    return {
        "planes": sum(each[0] for each in branches),
        "conv_kernels": [each[2] for each in branches],
        "conv_groups": [channels // each[1] for each in branches],
    }


def _count(shapes: Shapes, key: str) -> int:
    """Return how many keys of a pattern there are, counted from 0."""
    index = 0
    while key.format(index) in shapes:
        index += 1
    return index


_READERS: dict[str, Callable[[Shapes, Arguments], Arguments]] = {
    "External_attention": _external,
    "ExternalAttentionK": _external_k,
    "ScaledDotProductAttention": _multi_head,
    "SimplifiedScaledDotProductAttention": _simplified,
    "SKAttention": _selective,
    "PositionAttentionModule": _position,
    "ChannelAttentionModule": _channel,
    "DAModuleFixed": _dual,
    "SEWeightModule": _excitation,
    "PSAModule": _pyramid,
}
"""How a class's arguments are read; the published `DAModule` ignores its own."""
