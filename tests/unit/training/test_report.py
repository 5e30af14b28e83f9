"""What was measured, as a table in a page."""

from dataclasses import replace

import pytest

from regard_training.evaluate import Figures
from regard_training.report import MARKS, as_json, differences, fill_in, stated, table


def test_a_table_replaces_the_one_before(tmp_path):
    """What stands around the marks stays, and filling in twice is filling in once."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}old\n{MARKS[1]}\nafter\n")
    for _ in range(2):
        fill_in(page, table({"a": Figures(0.9, 0.01, 0.93, 0.95, 0.6)}))
    text = page.read_text()
    assert "old" not in text
    assert text.count("| a | 0.900 | 0.930 | 0.950 | 0.600 | – | – | – |\n") == 1
    assert text.startswith(f"before\n{MARKS[0]}| network |")
    assert text.endswith(f"{MARKS[1]}\nafter\n")


def test_a_page_without_marks_is_left_as_it_is(tmp_path):
    """Figures are not put anywhere."""
    page = tmp_path / "page.md"
    page.write_text("no place\n")
    with pytest.raises(ValueError, match=r"page\.md lacks the marks"):
        fill_in(page, "| table |\n")
    assert page.read_text() == "no place\n"


def test_figures_are_compared_by_the_digits_that_are_stated(tmp_path):
    """What is written comes back; a figure in whose three digits nothing shows is the same, others are named."""
    before = Figures(0.9, 0.01, 0.93, 0.95, 0.6, 0.3, 0.5, 0.7)
    (tmp_path / "figures.json").write_text(as_json({"a": before, "pixels": Figures(0.3, 0, 0.4, 0.5, 0.4)}))
    known = stated(tmp_path / "figures.json")
    assert known["a"] == before
    assert differences(known, known) == []
    found = {"a": replace(before, recall_at_1=0.9004, feature_cosine=0.701)}
    assert differences(found, known) == ["a: cosine to its features is 0.7010, stated as 0.7000"]
