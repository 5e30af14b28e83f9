"""What can be wrong with what a caller asks of the models.

    ModelError (ValueError)
    ├── SpecError             a spec or an override that describes no network
    ├── UnknownModelError     no registered model of that name
    ├── UnknownOutputError    the model has no output of that name
    ├── InputShapeError       an input that the network's mathematics forbids
    └── WeightsError          a file or state dict that does not hold this model's weights
        └── UnsafeFileError   a pickle that asks for more than tensors

All are the caller's fault and say what was expected; anything else that is raised here is our own bug.
"""

from __future__ import annotations

from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ModelError(ValueError):
    """The root of everything that this package refuses."""


class SpecError(ModelError):
    """A spec, or an override of one, that describes no network."""


class UnknownModelError(ModelError):
    """No model of that name is registered."""


class UnknownOutputError(ModelError):
    """The model offers no output of that name."""


class InputShapeError(ModelError):
    """An input whose shape the network's mathematics forbids."""


class WeightsError(ModelError):
    """A file or state dict that does not hold this model's weights."""


class UnsafeFileError(WeightsError):
    """A pickle that asks for more than tensors and plain containers."""


@contextmanager
def building(what: str) -> Iterator[None]:
    """Call what torch or arithmetic refuses while a module is built from given values a `SpecError`.

    The values are the caller's (a file's metadata, an override, a constructor's arguments), so their faults are
    too; `what` names them.
    """
    try:
        yield
    except ModelError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as cause:
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise SpecError(f"{what} describes no module: {reason}") from cause


def near(name: str, known: Iterable[str], *, limit: int = 5) -> str:
    """Say which known names are near an unknown one, or list them all when none is.

    Returns:
        A clause to end an error message with: `did you mean …?` or `known: …`.
    """
    names = list(known)
    close = get_close_matches(name, names, n=limit, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"
