"""What the shipped files, figures.json and the table say of the networks is one and the same."""

import dataclasses
import json

import pytest

from regard_models import load_bundle
from regard_models.bundle import SHIPPED, read_tensors
from regard_training.evaluate import Figures
from regard_training.report import COLUMNS, MARKS, TABLE, stated, table
from regard_training.shipping import record, ship
from regard_training.student import STUDENTS, Recipe, Student

FIGURES = TABLE.parent / "training/figures.json"


def test_the_table_is_made_of_the_figures():
    """Between the marks of models/README.md stands what figures.json has, to three digits."""
    _, _, rest = TABLE.read_text().partition(MARKS[0])
    shown, mark, _ = rest.partition(MARKS[1])
    assert mark
    assert shown == table(stated(FIGURES))


@pytest.mark.parametrize("name", STUDENTS)
def test_a_files_metadata_has_its_figures(name):
    """Each file's own figures are those of figures.json, all of them; its summary, in three digits, is of them too."""
    figures = stated(FIGURES)[name]
    _, told = read_tensors(SHIPPED / f"{name}.safetensors")
    assert Figures(**json.loads(told["figures"])) == figures
    assert all(getattr(figures, column) is not None for column in COLUMNS)
    recall, categories = figures.recall_at_1, figures.category_accuracy
    assert told["summary"] == f"distilled, recall@1 {recall:.3f}, categories {categories:.3f}"


def test_writing_figures_down_leaves_the_rest_of_a_file(tmp_path):
    """Other figures change a file's figures and summary; tensors and all other metadata stay, and so does its mode."""
    before = Figures(0.9, 0.01, 0.93, 0.95, 0.6, 0.3, 0.5, 0.7)
    path = ship(Student("ea_mini", Recipe(), "cpu"), before, tmp_path)
    weights, mode = load_bundle(path).weights_sha256, path.stat().st_mode
    tensors, told = read_tensors(path)
    now = dataclasses.replace(before, recall_at_1=0.8, feature_cosine=0.25)
    record(path, now)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert (load_bundle(path).weights_sha256, path.stat().st_mode) == (weights, mode)
    same, changed = read_tensors(path)
    assert {key: (each.dtype, each.numpy().tobytes()) for key, each in same.items()} == {
        key: (each.dtype, each.numpy().tobytes()) for key, each in tensors.items()
    }
    assert Figures(**json.loads(changed["figures"])) == now
    assert {key for key in told | changed if told.get(key) != changed.get(key)} == {"figures", "summary"}
    assert load_bundle(path).weights == "ea_mini.safetensors: distilled, recall@1 0.800, categories 0.600"
