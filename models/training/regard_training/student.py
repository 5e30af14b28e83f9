"""One student in training: its network, the average of its weights, its optimiser, and the file that it lives in.

The recipe is one for all: AdamW, a warm-up by steps, then half a cosine over the time that there is; an exponential
average of the weights is what is evaluated and shipped. All begin from one trunk, the plain network trained alone for
a share of the time: attention behind a stage is no more than an identity there, so nothing of the trunk is lost to it;
where it replaces a convolution, that one begins anew.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard_models import create, load_bundle
from regard_models.bundle import SHIPPED, read_tensors
from regard_models.preprocessing import Preprocessing
from regard_training.losses import Terms, distillation
from regard_training.teacher import FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

STUDENTS = ("resnet_mini", "ea_mini", "mhsa_mini", "sk_mini", "da_mini", "epsa_mini")
NORMAL = Preprocessing()


@dataclass(frozen=True)
class Recipe:
    """How students are trained.

    Attributes:
        trunk: the share of the time in which the plain network learns alone, that the others then begin from.
        input_side: of the network's own inputs, when it serves: above `side`, for the crops of training show things
            larger than whole pictures do (Touvron et al., *Fixing the train-test resolution discrepancy*, 2019,
            arXiv 1906.06423).
        side: of the images at the end.
        small_side: of the images until `grow` of the time is over: cheaper, and what is learnt carries over.
        grow: when the images become larger, as a share of the time.
        scenes: in a batch, each seen twice.
        rate: the highest learning rate.
        decay: of the weights, per step and rate.
        warm_up: steps during which the rate rises.
        average: the largest weight of the old average at a step.
    """

    trunk: float = 0.6
    input_side: int = 160
    side: int = 128
    small_side: int = 96
    grow: float = 0.85
    scenes: int = 32
    rate: float = 4e-3
    decay: float = 0.05
    warm_up: int = 50
    average: float = 0.995

    def rate_at(self, step: int, progress: float) -> float:
        """Return the learning rate at a step of a student when a share `progress` of the time is over."""
        return self.rate * min(1, (step + 1) / self.warm_up) * (1 + math.cos(math.pi * min(progress, 1))) / 2

    def side_at(self, progress: float) -> int:
        """Return the images' side when a share `progress` of the time is over."""
        return self.small_side if progress < self.grow else self.side


class Student:
    """A network that learns.

    Attributes:
        step: how many batches it has seen in this training.
        history: the trainings before this one, the first of them first: for each the digest of the weights that came
            of it, and the recipe and figures that their file told. Empty where this one began with nothing.
    """

    def __init__(self, name: str, recipe: Recipe, device: str) -> None:
        torch.manual_seed(0)
        self.name, self.recipe, self.device = name, recipe, device
        self.network = create(name, input_size=recipe.input_side).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(requires_grad=False)
        (width,) = self.network.outputs["embedding"].shape
        self.mapping = nn.Linear(width, FEATURES).to(device)
        self.optimiser = torch.optim.AdamW(_groups((self.network, self.mapping), recipe.decay), recipe.rate)
        self.step = 0
        self.history: list[dict[str, Any]] = []

    def learn(self, parts: tuple[NDArray[Any], ...], mean: Tensor, progress: float) -> Terms:
        """Take one step on images `(2, B, h, w, 3)`, features `(2, B, 1280)` and logits `(2, B, 1000)`."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step, progress)
        images, features, logits = (torch.from_numpy(part).flatten(0, 1).to(self.device) for part in parts)
        x = prepare(images, self.recipe.side_at(progress))
        half = len(x) // 2
        x = torch.cat([x[:half], x[half:].flip(3)]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16):
            found = self.network.extract(x, ("embedding", "logits"))
        terms = distillation(
            found["embedding"].float(),
            found["logits"].float(),
            features.float() - mean.to(self.device),
            logits.float(),
            self.mapping,
        )
        self.optimiser.zero_grad()
        torch.autograd.backward(terms.total)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._average()
        self.step += 1
        return terms

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        now = self.network.state_dict()
        for key, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(now[key], 1 - keep)
            else:
                value.copy_(now[key])

    def save(self, path: Path) -> None:
        """Write everything that going on needs; under another name first, so that a stop spoils nothing."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        partial = path.with_suffix(".partial")
        torch.save({**parts, "step": self.step, "history": self.history}, partial)
        partial.replace(path)

    @classmethod
    def load(
        cls, path: Path, name: str, recipe: Recipe, device: str, *, trunk: Path | None = None
    ) -> Student:
        """Go on where the file at `path` stopped; if there is none, begin, from a trunk's file if one is named.

        Raises:
            FileNotFoundError: a trunk is named, and is not there.
        """
        student = cls(name, recipe, device)
        if path.exists():
            parts = torch.load(path, map_location=device, weights_only=True)
            for part in _PARTS:
                getattr(student, part).load_state_dict(parts[part])
            student.step = parts["step"]
            student.history = parts.get("history", [])  # checkpoints of before lack it
        elif trunk:
            student.begin_from(torch.load(trunk, map_location=device, weights_only=True))
        return student

    @classmethod
    def shipped(cls, name: str, recipe: Recipe, device: str, folder: Path = SHIPPED) -> Student:
        """Begin with the weights that the models package ships, whose training becomes the last of the history.

        The mapping and the optimiser begin anew.
        """
        student = cls(name, recipe, device)
        path = folder / f"{name}.safetensors"
        bundle = load_bundle(path)
        for network in (student.network, student.averaged):
            network.load_state_dict(bundle.model.state_dict())
        _, told = read_tensors(path)
        last = {part: json.loads(told[part]) for part in ("recipe", "figures")}
        earlier = json.loads(told.get("history", "[]"))  # files of before lack it
        student.history = [*earlier, {"weights_sha256": bundle.weights_sha256, **last}]
        return student

    def begin_from(self, trunk: Mapping[str, Any]) -> None:
        """Take from a trunk's file every averaged tensor that has a place here, of the same name and shape."""
        here = self.network.state_dict()
        taken = {
            key: value
            for key, value in trunk["averaged"].items()
            if key in here and here[key].shape == value.shape
        }
        for network in (self.network, self.averaged):
            network.load_state_dict(taken, strict=False)
        self.mapping.load_state_dict(trunk["mapping"])


_PARTS = ("network", "averaged", "mapping", "optimiser")


def prepare(images: Tensor, side: int) -> Tensor:
    """Turn images `(N, h, w, 3)` uint8 into normalised ones `(N, 3, side, side)`."""
    x = images.permute(0, 3, 1, 2).float()
    if x.shape[-1] != side:
        x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (NORMAL.mean, NORMAL.std))
    return (x / 255 - mean) / std


def _groups(modules: Iterable[nn.Module], decay: float) -> list[dict[str, Any]]:
    """Norms and biases, which have one axis, are not decayed."""
    parameters = [each for module in modules for each in module.parameters()]
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
