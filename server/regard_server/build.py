"""What runs: which version of regard, and whether most of what a call runs through is machine code."""

from importlib.metadata import version
from typing import NamedTuple

from regard_server import scheduler


class Build(NamedTuple):
    """Of this process.

    Attributes:
        version: of the installed distribution.
        compiled: whether it was built with hatch_build.py's hook enabled.
    """

    version: str
    compiled: bool


def this_build() -> Build:
    """Look at what was imported."""
    return Build(version("regard"), not str(scheduler.__file__).endswith(".py"))
