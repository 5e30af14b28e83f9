"""How large the numbers may be that a file or a caller describes a network with.

Far beyond any network that is run, and small enough that a file that lies costs neither memory nor minutes: a
spec is checked before anything is built from it, and what is built has no storage until its weights fit.
"""

from __future__ import annotations

from typing import Any

from regard_models.errors import SpecError

MOST_CHANNELS = 1 << 14
MOST_CLASSES = 1 << 20
MOST_BLOCKS = 256
"""In one stage."""
MOST_SIDE = 4096
"""Pixels."""
MOST_VALUES = 64
"""In a tuple whose length nothing else decides."""


def check_numbers(name: str, values: Any, between: tuple[int, int], length: int | None = None) -> None:
    """Refuse anything but a tuple of whole numbers between two bounds, of `length` or else of a few.

    Raises:
        SpecError: naming what it was to be.
    """
    least, most = between
    long_enough = _are_whole(values) and (len(values) == length if length else len(values) <= MOST_VALUES)
    if not long_enough or not all(least <= each <= most for each in values):
        if length == 1:
            raise SpecError(f"{name} {values[0]!r:.80}: expected a whole number from {least} to {most}")
        many = length or f"at most {MOST_VALUES}"
        raise SpecError(f"{name} {values!r:.80}: expected {many} whole numbers from {least} to {most}")


def check_arguments(name: str, args: Any) -> None:
    """Refuse anything but pairs of a name and a number, a text or a few whole numbers.

    Raises:
        SpecError: saying so.
    """
    pairs = isinstance(args, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in args)  # noqa: PLR2004 - a pair
    if not pairs or not all(isinstance(key, str) and _is_argument(value) for key, value in args):
        raise SpecError(
            f"{name} of {args!r:.80}: expected pairs of a name and a number, a text or a few whole numbers"
        )


def _is_argument(value: Any) -> bool:
    return isinstance(value, int | float | str) or (_are_whole(value) and len(value) <= MOST_VALUES)


def _are_whole(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(each) is int for each in values)
