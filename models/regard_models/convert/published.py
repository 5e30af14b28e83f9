"""From a publisher's state dict to our model, and from a publisher's file to ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard_models.backbones import ResNet
from regard_models.bundle import save_bundle
from regard_models.convert.checkpoint import read_checkpoint
from regard_models.convert.fitting import fit
from regard_models.convert.originals import PREFIX, load_published, original_arguments, save_module
from regard_models.convert.sources import SOURCES, find_source
from regard_models.errors import SpecError, WeightsError
from regard_models.state import load_strictly, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

LIKELY = 0.5
"""Share of the tensors that must fit before a source is called likely."""


def from_published(
    source: str,
    state_dict: Mapping[str, Any],
    *,
    input_size: int | tuple[int, int] | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build our model with a publisher's weights, in eval mode.

    Args:
        source: one of `SOURCES`, such as `timm/skresnet18`, or a published class, such as `original/SKAttention`.
        state_dict: the publisher's tensors under the publisher's keys, wrapped or prefixed as they come.
        input_size: height and width to prepare the model for, by default the published ones. Tables of
            relative positions are resized to it by the rule of `regard_models.attention.relative`.
        args: of a published class's constructor, what the shapes of its weights do not say; only for one.

    Raises:
        UnknownSourceError: no such source.
        SpecError: arguments that describe no module, are missing, or are not for this source.
        WeightsError: keys or shapes that differ, the first few of them, and the source that they look like.
    """
    if source.startswith(PREFIX):
        _refuse(source, input_size=input_size)
        name = source.removeprefix(PREFIX)
        return load_published(name, state_dict, original_arguments(name, state_dict, args))
    _refuse(source, args=args)
    known = find_source(source)
    tensors = plain(state_dict)
    model, fitted = fit(known, tensors, input_size)
    try:
        load_strictly(model, fitted, where=f"checkpoint from {source}")
    except WeightsError as fault:
        raise WeightsError(f"{fault}; it looks like {_likely(tensors)}") from fault
    return model.eval()


def convert_file(
    source: str,
    file: str | Path,
    output: str | Path,
    *,
    input_size: int | tuple[int, int] | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Convert a publisher's file into a .safetensors file; return the model.

    `load_bundle` serves from the file; that of a published class, `original/…`, is for `load_module`.

    Raises:
        UnknownSourceError: no such source.
        WeightsError: as `from_published` and `read_checkpoint`.
        SpecError: as `from_published`, or the source is a head by itself, not a network to serve.
    """
    state = read_checkpoint(file)
    model = from_published(source, state, input_size=input_size, args=args)
    where = f"{source} from {Path(file).name}, sha256 {hashlib.sha256(Path(file).read_bytes()).hexdigest()}"
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        save_module(output, model, name, original_arguments(name, state, args), source=where)
        return model
    if not isinstance(model, ResNet):
        raise SpecError(f"{source} is a part of a network; convert the whole network to serve it")
    ready = find_source(source).preprocessing
    if input_size is not None:
        ready = ready.resized(model.spec.input_size)
    save_bundle(output, model, preprocessing=ready, source=where, trained=True)
    return model


def _refuse(source: str, **options: object) -> None:
    """Refuse an option that means nothing for a source.

    Raises:
        SpecError: one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise SpecError(f"{source} takes no {name}")


def _likely(tensors: Mapping[str, Tensor]) -> str:
    """Name the source whose model these tensors fit best."""
    shares = {name: _share(name, tensors) for name in SOURCES}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > LIKELY else "no known source"


def _share(source: str, tensors: Mapping[str, Tensor]) -> float:
    """Return how many of a source's tensors and of these are the same by key and shape, as a share of the larger."""
    try:
        model, ours = fit(SOURCES[source], tensors, None)
    except (WeightsError, SpecError):
        return 0.0
    expected = model.state_dict()
    fitting = [key for key, each in expected.items() if key in ours and ours[key].shape == each.shape]
    return len(fitting) / max(len(expected), len(ours))
