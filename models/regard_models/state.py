"""State dicts of any origin: unwrap them, rename their keys, and load them strictly.

Checkpoints come wrapped (`{"state_dict": …}`), prefixed (`module.`), without the counters that BatchNorm
gained in torch 0.4.1, with scalars of shape `()` or `(1,)`, and with aliased or strided tensors. All of
that is accepted here and nowhere else; everything beyond it is a fault that is named.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard_models.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WRAPPERS = ("state_dict", "net", "model")
PREFIXES = ("module.", "model.")
SHOWN = 5
"""How many differing keys an error names."""


def plain(checkpoint: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under their keys, without wrappers and without a prefix common to all.

    Raises:
        WeightsError: there is something other than tensors in it, or nothing.
    """
    for wrapper in WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, dict):
            return plain(inner)
    for key, value in checkpoint.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"entry {key!r} is {type(value).__name__}: expected tensors, or a dict of them under one of "
                + ", ".join(WRAPPERS)
            )
        if value.layout is not torch.strided or value.is_meta:
            raise WeightsError(f"entry {key!r} holds no dense numbers: expected an ordinary tensor")
    if not checkpoint:
        raise WeightsError("no tensors in it")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in checkpoint):
            return plain({key.removeprefix(prefix): value for key, value in checkpoint.items()})
    return dict(checkpoint)


def renamed(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename keys by regular expressions, each applied in turn to the result of those before it.

    Raises:
        WeightsError: two keys become one.
    """
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        new = key
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in found:
            raise WeightsError(f"two tensors are called {new!r} after renaming; the second was {key!r}")
        found[new] = value
    return found


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Put tensors into a model, which may be on the meta device, if every key and every shape fits.

    Missing BatchNorm counters are zero, a single number may have shape `()` or `(1,)`, and floats may be of
    another width. The tensors are copied and then taken over, never written into the old ones: so aliased
    parameters of the model cannot overwrite each other, and neither can those of the file.

    Raises:
        WeightsError: naming the first few keys that are missing, unexpected, of another shape or no floats.
    """
    expected = model.state_dict()
    given = dict(tensors)
    for key, own in expected.items():
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, torch.zeros((), dtype=own.dtype))
        if key in given and own.numel() == given[key].numel() == 1:
            given[key] = given[key].reshape(own.shape)
    faults = differences(expected, given)
    if faults:
        raise WeightsError(f"{where} does not fit the model: {faults}")
    fitted = {
        key: given[key].to(own.dtype, copy=True, memory_format=torch.contiguous_format)
        for key, own in expected.items()
    }
    model.load_state_dict(fitted, assign=True)


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Name the first few keys that are missing, unexpected, of another shape or kind; empty if there are none."""
    common = expected.keys() & given.keys()
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in common
        if given[key].shape != expected[key].shape
    ]
    # Quantised or complex weights would load and mean something else.
    kinds = [
        f"{key} of {given[key].dtype}"
        for key in common
        if expected[key].is_floating_point() and not given[key].is_floating_point()
    ]
    faults = (
        _listed("missing", expected.keys() - given.keys()),
        _listed("unexpected", given.keys() - expected.keys()),
        _listed("of another shape", shapes),
        _listed("not of floats", kinds),
    )
    return "; ".join(fault for fault in faults if fault)


def _listed(fault: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:SHOWN]) + (", …" if len(ordered) > SHOWN else "")
    return f"{len(ordered)} {fault} ({shown})" if ordered else ""
