"""The published classes by their own names, arguments and state-dict keys.

    from_original("SKAttention", {"channel": 64, "kernels": [3, 5]})  ─→  our module
    load_original(module, state)                                       ─→  its weights, key for key

A module made here behaves as the published class does, quirks included: a query from which every key is
hidden is NaN, the channel branch of DA is bound to its size, the class `DAModule` ignores its arguments.
Classes come from MenghaoGuo/EANet, murufeng/EPSANet and xmu-xiaoma666/External-Attention-pytorch;
`ExternalAttentionK` and `DAModuleFixed` are `External_attention` with its memory size as an argument and
`DAModule` with its arguments honoured.
"""

from __future__ import annotations

import inspect
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import torch

from regard_models.attention.dual import (
    ChannelAttention,
    DualAttention,
    PositionAttention,
)
from regard_models.attention.external import ExternalAttention
from regard_models.attention.multi_head import MultiHeadAttention, SimplifiedAttention
from regard_models.attention.pyramid import ChannelExcitation, PyramidAttention
from regard_models.attention.selective_kernel import SelectiveKernel
from regard_models.convolution import Branch
from regard_models.errors import SpecError, WeightsError, building, near
from regard_models.state import load_strictly, plain, renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

NAN = float("nan")
PUBLISHED_SIZE = (512, 3, (7, 7))
"""Channels, kernel and map size that the class `DAModule` has whatever its arguments say."""

# The signatures are the published ones, so their names stay: callers pass them by keyword.
# ruff: noqa: N803


def _external(c: int) -> nn.Module:
    return ExternalAttention(c)


def _external_k(c: int, k: int = 64) -> nn.Module:
    return ExternalAttention(c, k)


def _multi_head(d_model: int, d_k: int, d_v: int, h: int, dropout: float = 0.1) -> nn.Module:
    return MultiHeadAttention(d_model, d_k, d_v, h, dropout=dropout, hidden_row=NAN)


def _simplified(d_model: int, h: int, dropout: float = 0.1) -> nn.Module:
    return SimplifiedAttention(d_model, h, dropout=dropout, hidden_row=NAN)


def _selective(
    channel: int = 512,
    kernels: Sequence[int] = (1, 3, 5, 7),
    reduction: int = 16,
    group: int = 1,
    L: int = 32,
) -> nn.Module:
    branches = [Branch(kernel, groups=group) for kernel in kernels]
    return SelectiveKernel(
        channel, channel, branches, max(L, channel // reduction), bias=True, normalise=False
    )


def _position(d_model: int = 512, kernel_size: int = 3, H: int = 7, W: int = 7) -> nn.Module:  # noqa: ARG001 - unused there too
    return PositionAttention(d_model, kernel_size)


def _channel(d_model: int = 512, kernel_size: int = 3, H: int = 7, W: int = 7) -> nn.Module:
    return ChannelAttention(d_model, kernel_size, (H, W))


def _dual_fixed(d_model: int = 512, kernel_size: int = 3, H: int = 7, W: int = 7) -> nn.Module:
    return DualAttention(d_model, kernel_size, (H, W))


def _dual(d_model: int = 512, kernel_size: int = 3, H: int = 7, W: int = 7) -> nn.Module:  # noqa: ARG001 - ignored there too
    return DualAttention(*PUBLISHED_SIZE)


def _excitation(channels: int, reduction: int = 16) -> nn.Module:
    return ChannelExcitation(channels, reduction)


def _pyramid(
    inplans: int,
    planes: int,
    conv_kernels: Sequence[int] = (3, 5, 7, 9),
    stride: int = 1,
    conv_groups: Sequence[int] = (1, 4, 8, 16),
) -> nn.Module:
    return PyramidAttention(inplans, planes, conv_kernels, conv_groups, stride=stride)


ORIGINALS: dict[str, Callable[..., nn.Module]] = {
    "External_attention": _external,
    "ExternalAttentionK": _external_k,
    "ScaledDotProductAttention": _multi_head,
    "SimplifiedScaledDotProductAttention": _simplified,
    "SKAttention": _selective,
    "PositionAttentionModule": _position,
    "ChannelAttentionModule": _channel,
    "DAModule": _dual,
    "DAModuleFixed": _dual_fixed,
    "SEWeightModule": _excitation,
    "PSAModule": _pyramid,
}

_PROJECTIONS = (
    (r"(^|\.)fc_q\.", r"\1query."),
    (r"(^|\.)fc_k\.", r"\1key."),
    (r"(^|\.)fc_v\.", r"\1value."),
    (r"(^|\.)fc_o\.", r"\1out."),
)
_POSITION = ((r"(^|\.)cnn\.", r"\1conv."), (r"(^|\.)pa\.fc_", r"\1attention.fc_"), *_PROJECTIONS)
_CHANNEL = ((r"(^|\.)cnn\.", r"\1conv."), (r"(^|\.)pa\.fc_o\.", r"\1out."))
EXTERNAL_KEYS = (
    (r"(^|\.)conv1\.", r"\1project_in."),
    (r"(^|\.)linear_0\.weight$", r"\1keys"),
    (r"(^|\.)linear_1\.weight$", r"\1values"),
    (r"(^|\.)conv2\.0\.", r"\1project_out."),
    (r"(^|\.)conv2\.1\.", r"\1norm."),
)
_EXCITATION = ((r"(^|\.)fc1\.", r"\1reduce."), (r"(^|\.)fc2\.", r"\1expand."))
PYRAMID_KEYS = (
    (r"(^|\.)conv_1\.weight$", r"\1branches.0.weight"),
    (r"(^|\.)conv_2\.weight$", r"\1branches.1.weight"),
    (r"(^|\.)conv_3\.weight$", r"\1branches.2.weight"),
    (r"(^|\.)conv_4\.weight$", r"\1branches.3.weight"),
    (r"(^|\.)se\.fc1\.", r"\1excitation.reduce."),
    (r"(^|\.)se\.fc2\.", r"\1excitation.expand."),
)
_DUAL = (
    (r"^position_attention_module\.pa\.fc_", "position.attention.fc_"),
    (r"^position_attention_module\.", "position."),
    (r"^channel_attention_module\.pa\.fc_o\.", "channel.out."),
    (r"^channel_attention_module\.", "channel."),
    (r"\.cnn\.", ".conv."),
    *_PROJECTIONS,
)
_SELECTIVE = (
    (r"^convs\.(\d+)\.conv\.", r"branches.\1.conv."),
    (r"^convs\.(\d+)\.bn\.", r"branches.\1.norm."),
    (r"^fc\.", "reduce."),
)

KEYS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ExternalAttention: EXTERNAL_KEYS,
    MultiHeadAttention: _PROJECTIONS,
    SimplifiedAttention: _PROJECTIONS,
    SelectiveKernel: _SELECTIVE,
    PositionAttention: _POSITION,
    ChannelAttention: _CHANNEL,
    DualAttention: _DUAL,
    ChannelExcitation: _EXCITATION,
    PyramidAttention: PYRAMID_KEYS,
}
"""How each of our modules' keys are made from the published class's."""


def from_original(class_name: str, args: Mapping[str, Any]) -> nn.Module:
    """Build our module for a published class.

    Args:
        class_name: one of `ORIGINALS`.
        args: the published constructor's arguments by their published names.

    Raises:
        SpecError: no such class, or arguments that it does not take or that describe no module.
    """
    if class_name not in ORIGINALS:
        raise SpecError(f"no published class {class_name!r}; {near(class_name, ORIGINALS)}")
    make = ORIGINALS[class_name]
    try:
        inspect.signature(make).bind(**args)
    except TypeError as cause:
        raise SpecError(f"{class_name}: {cause}") from cause
    with building(f"{class_name} of {dict(args)}"):
        return make(**args)


def load_original(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load the published class's weights, under their published keys, into the module that stands for it.

    Raises:
        WeightsError: the module stands for no published class, or keys or shapes differ.
    """
    if type(module) not in KEYS:
        raise WeightsError(f"{type(module).__name__} stands for no published class")
    tensors = renamed(plain(state_dict), KEYS[type(module)])
    if isinstance(module, ExternalAttention):
        tensors = external_memories(tensors, tied=module.values is None)
    if isinstance(module, SelectiveKernel):
        tensors = _one_selection(tensors)
    load_strictly(module, tensors, where=f"state dict of the class behind {type(module).__name__}")


def external_memories(tensors: Mapping[str, Tensor], *, tied: bool = False) -> dict[str, Tensor]:
    """Drop the convolutions' last axis from external attention's memories, and the values if they are the keys.

    Raises:
        WeightsError: a tied module was given two different memories.
    """
    found = dict(tensors)
    for key in tensors:
        if key.rpartition(".")[2] in ("keys", "values") and found[key].ndim == len("OIK"):
            found[key] = found[key].squeeze(-1)
    if tied and "values" in found:
        values = found.pop("values")
        if "keys" not in found or not torch.equal(values, found["keys"].T):
            raise WeightsError("two different memories for a tied external attention; build it untied")
    return found


def _one_selection(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack the branches' `fcs.i` into one `select`, branch-major; what cannot be stacked stays as it is."""
    found = dict(tensors)
    for name in ("weight", "bias"):
        keys = list(takewhile(tensors.__contains__, (f"fcs.{index}.{name}" for index in count())))
        shapes = {tensors[key].shape for key in keys}
        if len(shapes) == 1 and shapes != {()}:
            found[f"select.{name}"] = torch.cat([found.pop(key) for key in keys])
    return found
