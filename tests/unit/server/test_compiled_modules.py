"""What hatch_build.py may compile."""

import ast
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
HOOK = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]
MODULES = HOOK["custom"]["modules"]


@pytest.mark.parametrize("module", MODULES)
def test_neither_coroutines_nor_generators_are_compiled(module):
    """Mypyc keeps the exception that is being handled by thread, so that coroutines which wait then mix theirs up.

    Seen with mypyc 2.4.1: of five that each raise an error and wait in `finally`, all end with the last one's; a
    cancelled call was INTERNAL, and every stream that was given up stayed in memory. A generator, of gauges, crashed.
    """
    (source,) = (path for root in ("proto", "server") if (path := TOP / root / module).is_file())
    kinds = (ast.AsyncFunctionDef, ast.Await, ast.Yield, ast.YieldFrom)
    assert not [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, kinds)]
