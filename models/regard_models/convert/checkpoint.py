"""Files of tensors, read without executing anything that is in them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regard_models.bundle import read_tensors
from regard_models.errors import UnsafeFileError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_TIMES = 4
"""How many times a file's own size its tensors may take: aliases share numbers, but not more often than this."""


def read_checkpoint(file: str | Path) -> Mapping[str, Any]:
    """Read a .safetensors file, or what `torch.save` wrote, weights only.

    Raises:
        UnsafeFileError: a pickle that asks for more than tensors and plain containers; nothing of it was
            executed.
        WeightsError: no such file, no checkpoint, or one that takes far more memory than its own size.
    """
    path = Path(file)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    size = path.stat().st_size
    try:
        _check_size(path, _unpacked(path), size)
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it did not write itself; the refusal below says it better.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise UnsafeFileError(
            f"{path}: not loadable weights-only, so it was not loaded; save its state_dict() alone, "
            f"best as safetensors, where you trust it ({str(cause).splitlines()[0]})"
        ) from cause
    except WeightsError:
        raise
    # A dozen kinds of exception came out of the reader when bytes of good files were changed.
    except Exception as cause:
        raise WeightsError(f"{path}: not a torch checkpoint ({cause})") from cause
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds {type(content).__name__}: expected a dict of tensors")
    _check_size(path, _stated(content), size)
    return content


def _check_size(path: Path, takes: int, size: int) -> None:
    if takes > MOST_TIMES * size:
        raise WeightsError(
            f"{path}: {size:,} bytes that would take {takes:,} of memory; torch.save writes no such files"
        )


def _unpacked(path: Path) -> int:
    """Return how many bytes a zip file holds: torch.save compresses nothing, but torch.load reads what is."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(each.file_size for each in archive.infolist())


def _stated(content: object) -> int:
    """Return how many bytes the tensors in nested dicts have by their shapes: strides of 0 repeat few numbers."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    return sum(map(_stated, content.values())) if isinstance(content, dict) else 0
