"""Asking the teacher about many images: through OpenVINO on a CPU, where it is several times faster, else by torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch.nn import functional

if TYPE_CHECKING:
    from regard_training.teacher import Teacher

BATCH = 50

Ask: TypeAlias = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
"""Images `(N, h, w, 3)` uint8 to features `(N, 1280)` and logits `(N, 1000)`, float16."""


def asking(teacher: Teacher, side: int, device: str, *, threads: int = 1) -> Ask:
    """Make the teacher ready for images that are enlarged or shrunk to `side`."""
    run = _through_openvino(teacher, side, threads) if device == "cpu" else _through_torch(teacher, device)

    def ask(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        features: list[NDArray[Any]] = []
        logits: list[NDArray[Any]] = []
        for start in range(0, len(images), BATCH):
            pixels = torch.tensor(images[start : start + BATCH]).to(device).permute(0, 3, 1, 2).float()
            if pixels.shape[-1] != side:
                pixels = functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
            for values, kept in zip(run(pixels), (features, logits), strict=True):
                kept.append(values.astype(np.float16))
        return np.concatenate(features), np.concatenate(logits)

    return ask


def _through_torch(teacher: Teacher, device: str) -> Callable[[torch.Tensor], tuple[NDArray[Any], ...]]:
    moved = teacher.to(device)

    @torch.inference_mode()
    def run(pixels: torch.Tensor) -> tuple[NDArray[Any], ...]:
        found = moved(pixels.contiguous(memory_format=torch.channels_last))
        return tuple(values.cpu().numpy() for values in found)

    return run


def _through_openvino(
    teacher: Teacher, side: int, threads: int
) -> Callable[[torch.Tensor], tuple[NDArray[Any], ...]]:
    example = torch.zeros(1, 3, side, side)
    with warnings.catch_warnings():
        # The padding becomes a constant of this side, which is what is wanted; and OpenVINO traces, which torch has
        # deprecated and not replaced for it.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        converted = openvino.convert_model(teacher, example_input=example, input=[(-1, 3, side, side)])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(converted, "CPU", options)

    def run(pixels: torch.Tensor) -> tuple[NDArray[Any], ...]:
        found = compiled(pixels.numpy())
        return found[0], found[1]

    return run
