"""Where Prometheus is."""

import os
import shutil
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]


def program(name):
    """Return the program's path; `make test` fetches it."""
    found = shutil.which(name, path=f"{TOP / '.cache/prometheus/usr/bin'}{os.pathsep}{os.environ['PATH']}")
    assert found, f"there is no {name}; `make .cache/prometheus/usr/bin/promtool` fetches it"
    return found


@pytest.fixture(scope="session")
def promtool():
    return program("promtool")


@pytest.fixture(scope="session")
def prometheus():
    return program("prometheus")
