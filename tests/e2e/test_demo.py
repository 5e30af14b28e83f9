"""What a newcomer sees: the demo, and README's picture, made as they are made for real."""

import re
import sys

import pytest
from PIL import Image
from process import Process
from processes import TOP

from regard_models.samples import sample_photographs

PHOTOGRAPHS = [path.stem for path in sample_photographs()]
# The engine that needs no measuring; the scripts hand the environment on to the server that they start.
PLAIN = {"REGARD_ENGINE": "eager", "REGARD_DTYPE": "float32"}


@pytest.fixture
def run(launch, tmp_path):
    """Run a script of deploy/ to its end, with a cache of its own; return (exit status, what it wrote)."""

    def run(script, *arguments, **environment):
        command = [sys.executable, "-u", TOP / "deploy" / script, *arguments]
        process = launch(Process, command, XDG_CACHE_HOME=str(tmp_path / "cache"), **environment)
        return process.end(), process.output

    return run


def test_the_demo_finds_varied_photographs_again(run):
    """It starts a trained default model, tells what every photograph's copy finds, and stops the server in order."""
    status, output = run("demo.py")
    assert status == 0, output
    assert "distilled, recall@1" in output
    assert "UNTRAINED" not in output
    right, of = re.search(r"(\d+) of (\d+) copies find their own photograph", output).groups()
    assert int(of) == len(PHOTOGRAPHS)
    assert int(right) >= len(PHOTOGRAPHS) - 1
    rows = dict(re.findall(r"^(\w+) +\d\.\d{3} +(-?\d\.\d{3} \w+.*?) +\d+\.\d ms", output, re.MULTILINE))
    assert list(rows) == PHOTOGRAPHS
    assert "gravel" in rows["grass"]
    assert "nothing alike" not in rows["grass"]
    assert rows["astronaut"].endswith("nothing alike")
    assert output.endswith("server stopped with status 0\n")


def test_the_contact_sheet_is_drawn(run, tmp_path):
    """README's picture comes out in the size and the kind that the one in the repository has."""
    status, output = run("contact_sheet.py", tmp_path / "sheet.jpg", **PLAIN)
    assert status == 0, output
    with Image.open(tmp_path / "sheet.jpg") as made, Image.open(TOP / "models/contact-sheet.jpg") as shown:
        assert (made.size, made.format) == (shown.size, shown.format)
        assert len(made.resize((8, 8)).getcolors()) > 32
