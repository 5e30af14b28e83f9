"""Every network measured in the same way, as a table for people and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from regard_models import load_bundle
from regard_training.answers import asking
from regard_training.evaluate import Figures, Reference, measure, pixels, student_network
from regard_training.held_out import held_out, left_out
from regard_training.teacher import load_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regard_models.backbones import ResNet

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
FITTING_SEEDS = (0, 1)
"""Of the views that networks' features are mapped to the teacher's by: 1,120, more than any network has features."""
TABLE = Path(__file__).parents[2] / "README.md"
"""The page that the table stands in."""
MARKS = ("<!-- figures -->\n", "<!-- /figures -->")
SAME = 5e-4
"""Figures that differ by less are the same: half of the last digit that is stated."""


def compare(networks: Mapping[str, ResNet], cache: Path) -> dict[str, Figures]:
    """Measure networks, one of them untrained, the teacher, and pixels alone; says on the terminal what is next."""
    print("==> measuring the teacher", flush=True)
    data = held_out(cache)
    teacher = asking(load_teacher(), TEACHER_SIDE, "cpu", threads=torch.get_num_threads())
    fitting = np.concatenate(left_out(cache, FITTING_SEEDS).queries)
    reference = Reference(teacher(data.pictures), fitting, teacher(fitting)[0])
    found = {"teacher (EfficientNet-Lite0)": measure(teacher, data)}
    untrained = load_bundle(UNTRAINED, trained=False).model
    for name, network in {**networks, f"{UNTRAINED}, untrained": untrained}.items():
        print(f"==> measuring {name}", flush=True)
        asked = student_network(network, network.spec.input_size[0])
        found[name] = measure(asked, data, reference)
    found["16×16 pixels"] = measure(pixels(16), data, reference)
    return found


def stated(path: Path) -> dict[str, Figures]:
    """Read figures that `as_json` wrote."""
    return {name: Figures(**figures) for name, figures in json.loads(path.read_text()).items()}


def differences(found: Mapping[str, Figures], stated: Mapping[str, Figures]) -> list[str]:
    """Return a line for every figure that is another than the stated one, by the digits that are stated."""
    lines: list[str] = []
    for name, figures in found.items():
        now, before = dataclasses.asdict(figures), dataclasses.asdict(stated[name])
        lines += [
            f"{name}: {column} is {now[key]:.4f}, stated as {before[key]:.4f}"
            for key, column in COLUMNS.items()
            if now[key] is not None and abs(now[key] - before[key]) >= SAME
        ]
    return lines


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
