"""Backbones with attention, their weights, and how images are made ready for them.

Names are imported when they are first used, so that what needs no torch (`regard_models.catalogue`) does
not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard_models.bundle import ModelBundle, load_bundle, save_bundle
    from regard_models.errors import (
        InputShapeError,
        ModelError,
        SpecError,
        UnknownModelError,
        UnknownOutputError,
        UnsafeFileError,
        WeightsError,
    )
    from regard_models.folding import fold
    from regard_models.outputs import OutputInfo
    from regard_models.preprocessing import Preprocessing
    from regard_models.registry import DEFAULT_MODEL, create, list_models

__all__ = [
    "DEFAULT_MODEL",
    "InputShapeError",
    "ModelBundle",
    "ModelError",
    "OutputInfo",
    "Preprocessing",
    "SpecError",
    "UnknownModelError",
    "UnknownOutputError",
    "UnsafeFileError",
    "WeightsError",
    "create",
    "fold",
    "list_models",
    "load_bundle",
    "save_bundle",
]

_HOMES = {
    **dict.fromkeys(("DEFAULT_MODEL", "create", "list_models"), "registry"),
    **dict.fromkeys(("ModelBundle", "load_bundle", "save_bundle"), "bundle"),
    "OutputInfo": "outputs",
    "Preprocessing": "preprocessing",
    "fold": "folding",
}
"""Where a name lives, if not among the errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as cause:
            if cause.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
