"""From checkpoints to the files that the models package ships: float16, with everything that is known about them."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING

import torch

from regard_models import save_bundle
from regard_models.bundle import SHIPPED
from regard_models.preprocessing import Preprocessing
from regard_training import sources
from regard_training.student import Recipe, Student

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regard_models.backbones import ResNet
    from regard_training.evaluate import Figures

LICENCE = "Apache-2.0"


def rounded(student: Student) -> ResNet:
    """Return the averaged network as its file will hold it: every number rounded to float16, in float32 again.

    Raises:
        ValueError: a number does not fit into float16.
    """
    network: ResNet = copy.deepcopy(student.averaged).cpu().eval()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(value.half())
            if not torch.isfinite(value).all():
                raise ValueError(f"{student.name}: {key} does not fit into float16")
    return network


def ship(
    student: Student, figures: Figures, folder: Path = SHIPPED, *, before: Mapping[str, float] | None = None
) -> Path:
    """Write one student's file and return its path; `before` is what else its recipe was, trunk and pool."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{student.name}.safetensors"
    side = student.recipe.input_side
    save_bundle(
        path,
        rounded(student),
        preprocessing=Preprocessing(side, side, side),
        source="models/training of this repository",
        trained=True,
        half=True,
        details=details(student.recipe, student.step, figures, before or {}),
    )
    path.chmod(0o644)  # as any file of a package; they are written for their owner alone
    return path


def details(recipe: Recipe, steps: int, figures: Figures, before: Mapping[str, float]) -> dict[str, str]:
    """Return what stands in a file's metadata beside what loading it needs."""
    taken = {**dataclasses.asdict(recipe), **before, "steps": steps}
    return {
        "summary": (
            f"distilled, recall@1 {figures.recall_at_1:.2f}, categories {figures.category_accuracy:.2f}"
        ),
        "teacher": sources.TEACHER,
        "recipe": json.dumps(taken),
        "data": json.dumps({each.folder: each.licence for each in sources.TRAINING}),
        "figures": json.dumps(dataclasses.asdict(figures)),
        "licence": LICENCE,
    }
