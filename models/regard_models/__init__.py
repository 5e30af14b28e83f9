"""Backbones with attention, their weights, and how images are made ready for them."""

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
    "list_models",
    "load_bundle",
    "save_bundle",
]
