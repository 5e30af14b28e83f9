"""Files of tensors, read without executing anything that is in them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regard_models.bundle import read_tensors
from regard_models.errors import UnsafeFileError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_checkpoint(file: str | Path) -> Mapping[str, Any]:
    """Read a .safetensors file, or what `torch.save` wrote, weights only.

    Raises:
        UnsafeFileError: a pickle that asks for more than tensors and plain containers; nothing of it was
            executed.
        WeightsError: no such file, or no checkpoint.
    """
    path = Path(file)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it did not write itself; the refusal below says it better.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise UnsafeFileError(
            f"{path}: not loadable weights-only, so it was not loaded; save its state_dict() alone, "
            f"best as safetensors, where you trust it ({str(cause).splitlines()[0]})"
        ) from cause
    except (RuntimeError, EOFError, ValueError, KeyError) as cause:
        raise WeightsError(f"{path}: not a torch checkpoint ({cause})") from cause
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds {type(content).__name__}: expected a dict of tensors")
    return content
