"""Every network measured in the same way, as a table for people and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np

from regard_models import load_bundle
from regard_training.answers import asking
from regard_training.evaluate import Figures, Reference, measure, pixels, student_network
from regard_training.held_out import held_out
from regard_training.pool import complete_chunks
from regard_training.shipping import rounded
from regard_training.teacher import load_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from regard_training.student import Student

TEACHER_SIDE = 224
COLUMNS = {
    "recall_at_1": "recall@1",
    "mean_average_precision": "mAP",
    "photograph_recall_at_1": "recall@1, photographs",
    "category_accuracy": "categories",
    "teacher_top1": "teacher's best class",
    "teacher_top5": "among its best 5",
    "feature_cosine": "cosine to its features",
}
UNTRAINED = "resnet_mini"


def compare(students: Sequence[Student], cache: Path) -> dict[str, Figures]:
    """Measure the students, one of them untrained, the teacher, and pixels alone."""
    data = held_out(cache)
    teacher = asking(load_teacher(), TEACHER_SIDE, "cpu")
    fitting = complete_chunks(cache / "pool")[0]
    reference = Reference(
        teacher(data.pictures), np.load(fitting / "images.npy"), np.load(fitting / "features.npy")
    )
    found = {"teacher (EfficientNet-Lite0)": measure(teacher, data)}
    for student in students:
        network = student_network(rounded(student), student.recipe.input_side)
        found[student.name] = measure(network, data, reference)
    untrained = load_bundle(UNTRAINED, trained=False).model
    side = students[0].recipe.input_side
    found[f"{UNTRAINED}, untrained"] = measure(student_network(untrained, side), data, reference)
    found["16×16 pixels"] = measure(pixels(16), data, reference)
    return found


MARKS = ("<!-- figures -->\n", "<!-- /figures -->")


def fill_in(page: Path, contents: str) -> None:
    """Replace what stands between the two marks of a Markdown page.

    Raises:
        ValueError: the page has no such marks.
    """
    before, first, rest = page.read_text().partition(MARKS[0])
    _, second, after = rest.partition(MARKS[1])
    if not first or not second:
        raise ValueError(
            f"{page} lacks the marks {MARKS[0].strip()} and {MARKS[1]}, between which figures stand"
        )
    page.write_text(f"{before}{first}{contents}{second}{after}")


def table(found: Mapping[str, Figures]) -> str:
    """Return a Markdown table of what was measured."""
    lines = ["| network | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, figures in found.items():
        values = dataclasses.asdict(figures)
        cells = ["–" if values[key] is None else f"{values[key]:.3f}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_json(found: Mapping[str, Figures]) -> str:
    """Return what was measured with all its digits."""
    return json.dumps({name: dataclasses.asdict(figures) for name, figures in found.items()}, indent=2) + "\n"
