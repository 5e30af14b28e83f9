"""A model with everything that serving it needs, and the file that it lives in.

The file is safetensors: the tensors under their state-dict keys, and in its metadata the spec, the
preprocessing, where the weights came from and whether they were trained. Reading it executes nothing.

The folder `weights` beside this file holds trained weights of some registered names (models/training made
them); `load_bundle` takes those unless it is told to draw weights from a seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regard_models.backbones import ResNet
from regard_models.errors import WeightsError
from regard_models.preprocessing import Preprocessing
from regard_models.registry import MODELS, build, empty, entry
from regard_models.spec import ModelSpec
from regard_models.state import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FORMAT = "regard-model-1"
SHIPPED = Path(__file__).parent / "weights"
LONGEST_SUMMARY = 200
"""Letters of a file's own words about its weights that are passed on."""
MODULE_FORMAT = "regard-module-1"
"""Of a published class by itself: `regard_models.convert.load_module`."""


@dataclass(frozen=True)
class ModelBundle:
    """A model ready to serve.

    Attributes:
        name: what callers ask for.
        model: the network, in eval mode, on the CPU, float32.
        preprocessing: how its images are made ready.
        architecture: the canonical JSON of its spec.
        trained: False where the weights are only a seed's.
        weights: what they are, for people: a file's name and what it says of itself, or "seed 0, untrained".
        weights_sha256: over keys, shapes, dtypes and bytes in the order of the keys, hexadecimal.
        min_side: the smallest height and width the trunk accepts.
        parameters: how many there are.
    """

    name: str
    model: ResNet
    preprocessing: Preprocessing
    architecture: str
    trained: bool
    weights: str
    weights_sha256: str
    min_side: int
    parameters: int


def load_bundle(
    source: str | Path, *, name: str | None = None, seed: int = 0, trained: bool = True
) -> ModelBundle:
    """Load a model by registered name or from a file that `save_bundle` or `regard convert` wrote.

    Args:
        source: a registered name, or a .safetensors file's path.
        name: what callers shall ask for; by default the registered name or the file's stem.
        seed: of the weights of a registered name that no trained ones are shipped for; the same seed gives the same
            weights everywhere.
        trained: False draws them from the seed even where trained ones are shipped.

    Raises:
        UnknownModelError: neither a registered name nor a path.
        WeightsError: the file is missing, is none of ours, or its tensors do not fit its spec.
        SpecError: its spec describes no network.
    """
    if str(source) in MODELS or not _is_path(source):
        known = entry(str(source))
        if trained and (shipped := shipped_weights(str(source))):
            return load_bundle(shipped, name=name)
        model = build(known.spec, seed)
        return _bundle(
            name or str(source), model, known.preprocessing, trained=False, weights=f"seed {seed}, untrained"
        )
    path = Path(source)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == MODULE_FORMAT:
        raise WeightsError(f"{path}: one module, not a network to serve; `convert.load_module` reads it")
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: no model of ours (its metadata lacks format={FORMAT}); use `regard convert` first"
        )
    missing = [key for key in ("spec", "preprocessing", "trained") if key not in metadata]
    if missing:
        raise WeightsError(f"{path}: its metadata lacks {', '.join(missing)}; convert it again")
    model = empty(ModelSpec.from_json(metadata["spec"]))
    preprocessing = Preprocessing.from_json(metadata["preprocessing"])
    load_strictly(model, tensors, where=str(path))
    _check_sizes(path, preprocessing, model)
    summary = metadata.get("summary", "")[:LONGEST_SUMMARY]
    return _bundle(
        name or path.stem,
        model,
        preprocessing,
        trained=metadata["trained"] == "true",
        weights=f"{path.name}: {summary}" if summary.isprintable() and summary else path.name,
    )


def shipped_weights(name: str) -> Path | None:
    """Return the file of trained weights that this package has for a registered name, or None."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def save_bundle(
    path: str | Path,
    model: ResNet,
    *,
    preprocessing: Preprocessing | None = None,
    source: str = "",
    trained: bool = False,
    half: bool = False,
    details: Mapping[str, str] | None = None,
) -> None:
    """Write a model to a .safetensors file that `load_bundle` reads.

    Args:
        path: where to; replaced if it is there.
        model: what to write.
        preprocessing: ImageNet's usual at the model's input size by default.
        source: where the weights come from, for people.
        trained: whether they are more than a seed's.
        half: write floats as float16, at half the size; they are read into float32 again.
        details: more metadata. A `summary` is shown to people behind the file's name.

    Raises:
        WeightsError: the images would be of another size than the model states.
    """
    ready = preprocessing or Preprocessing().resized(model.spec.input_size)
    _check_sizes(path, ready, model)
    metadata = {
        **(details or {}),
        "format": FORMAT,
        "spec": model.spec.to_json(),
        "preprocessing": ready.to_json(),
        "source": source,
        "trained": "true" if trained else "false",
    }
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    if half:
        tensors = {key: each.half() if each.is_floating_point() else each for key, each in tensors.items()}
    save_file(tensors, str(path), metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        WeightsError: there is no such file, or it is not safetensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except SafetensorError as cause:
        raise WeightsError(f"{path}: not a safetensors file ({cause})") from cause


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash keys, dtypes, shapes and bytes, in the order of the keys."""
    sha = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        sha.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _check_sizes(path: str | Path, preprocessing: Preprocessing, model: ResNet) -> None:
    """Refuse images of another size than the one that the model states its outputs for."""
    if (preprocessing.height, preprocessing.width) != model.spec.input_size:
        raise WeightsError(
            f"{path}: images of {preprocessing.height}x{preprocessing.width} for a network of "
            f"{model.spec.input_size[0]}x{model.spec.input_size[1]}: expected the same; "
            "override the network's input_size, or use Preprocessing.resized"
        )


def _is_path(source: str | Path) -> bool:
    return isinstance(source, Path) or source.endswith(".safetensors") or "/" in source


def _bundle(
    name: str, model: ResNet, preprocessing: Preprocessing, *, trained: bool, weights: str
) -> ModelBundle:
    model.eval()
    return ModelBundle(
        name=name,
        model=model,
        preprocessing=preprocessing,
        architecture=model.spec.to_json(),
        trained=trained,
        weights=weights,
        weights_sha256=digest(model.state_dict()),
        min_side=model.min_side,
        parameters=sum(each.numel() for each in model.parameters()),
    )
