"""From checkpoints to the files that the models package ships: float16, with everything that is known about them."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from regard_models import save_bundle
from regard_models.bundle import SHIPPED, read_tensors
from regard_models.preprocessing import Preprocessing
from regard_training import sources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regard_models.backbones import ResNet
    from regard_training.evaluate import Figures
    from regard_training.student import Student

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
    """Write one student's file and return its path; `before` is what else its recipe was, trunk and pool.

    The recipe is this training's; those before it, where it began with shipped weights, stand in the history.
    """
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
        details=details(student, figures, before or {}),
    )
    path.chmod(0o644)  # as any file of a package; they are written for their owner alone
    return path


def record(path: Path, figures: Figures) -> None:
    """Write other figures into a file's metadata; everything else in it stays as it is, bit for bit."""
    tensors, metadata = read_tensors(path)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {**metadata, **_told(figures)})
    partial.chmod(path.stat().st_mode)
    partial.replace(path)


def details(student: Student, figures: Figures, before: Mapping[str, float]) -> dict[str, str]:
    """Return what stands in a file's metadata beside what loading it needs."""
    taken = {**dataclasses.asdict(student.recipe), **before, "steps": student.step}
    return {
        "teacher": sources.TEACHER,
        "recipe": json.dumps(taken),
        "history": json.dumps(student.history),
        "data": json.dumps({each.folder: each.licence for each in sources.TRAINING}),
        "licence": LICENCE,
        **_told(figures),
    }


def _told(figures: Figures) -> dict[str, str]:
    """Say how good a network is: in a line for people, and with all digits."""
    recall, categories = figures.recall_at_1, figures.category_accuracy
    return {
        "summary": f"distilled, recall@1 {recall:.3f}, categories {categories:.3f}",
        "figures": json.dumps(dataclasses.asdict(figures)),
    }
