"""The pool: views of scenes with what the teacher says of each, made once and shared by all students.

The same pixels go to teacher and student (Beyer et al., *Knowledge distillation: A good teacher is patient and
consistent*, 2021, arXiv 2106.05237), so the teacher's answers can be kept. Chunks are made from their number alone, so
that making them can stop and go on, and run in as many processes as there are.

A chunk holds, in the order scene × view:
    images.npy    (S·V, side, side, 3) uint8
    features.npy  (S·V, 1280) float16, the teacher's pooled features
    logits.npy    (S·V, 1000) float16
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard_training.answers import Ask, asking
from regard_training.crops import TRAINING, blend, cut_scene, vary
from regard_training.teacher import load_teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PARTS = ("images", "features", "logits")


@dataclass(frozen=True)
class PoolPlan:
    """What a pool shall hold.

    Attributes:
        folder: where it lies.
        scenes: in each chunk.
        views: of each scene.
        side: of the stored views, in pixels.
        teacher_side: what they are enlarged to for the teacher.
        blends: the share of scenes that are two laid over each other.
        drawings: the share of scenes that are cut from drawings, where there are some.
        device: where the teacher runs.
    """

    folder: Path
    scenes: int = 500
    views: int = 3
    side: int = 128
    teacher_side: int = 176
    blends: float = 0.35
    drawings: float = 0.2
    device: str = "cpu"

    @property
    def path(self) -> Path:
        """The file that says how the chunks beside it were made."""
        return self.folder / "plan.json"

    def recipe(self) -> dict[str, float]:
        """Return what decides what a chunk holds."""
        names = ("scenes", "views", "side", "teacher_side", "blends", "drawings")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Pictures:
    """The files that scenes are cut from."""

    photographs: tuple[Path, ...]
    drawings: tuple[Path, ...] = ()


def make_pool(plan: PoolPlan, chunks: int, pictures: Pictures, *, workers: int) -> list[Path]:
    """Make the chunks that are missing; return the folders of all.

    Args:
        plan: what they shall hold.
        chunks: how many there shall be.
        pictures: what scenes are cut from.
        workers: processes beside each other; 0 makes them in this one.

    Raises:
        ValueError: the folder holds chunks that were made otherwise.
    """
    _keep(plan)
    folders = [plan.folder / f"{number:03}" for number in range(chunks)]
    missing = [number for number, folder in enumerate(folders) if not folder.exists()]
    jobs = [(plan, number, pictures) for number in missing]
    if workers and missing:
        with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
            for number in processes.map(_make_chunk, jobs):
                print(f"    chunk {number + 1} of {chunks}", flush=True)
    else:
        for job in jobs:
            _make_chunk(job)
    return folders


def _keep(plan: PoolPlan) -> None:
    """Write beside the chunks how they are made, or compare it with how those that are there were made."""
    path = plan.path
    wanted = plan.recipe()
    if path.exists() or (plan.folder.exists() and complete_chunks(plan.folder)):
        found = json.loads(path.read_text()) if path.exists() else None
        if found != wanted:
            raise ValueError(
                f"{plan.folder} holds chunks of {found}, not of {wanted}; remove it, or name another"
            )
        return
    plan.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted))


def complete_chunks(folder: Path) -> tuple[Path, ...]:
    """Return the chunks that are there; one in the making still has another name."""
    return tuple(sorted(each for each in folder.iterdir() if each.name.isdigit()))


@dataclass(frozen=True)
class Pool:
    """The chunks of a pool, mapped into memory and not read until asked for."""

    views: int
    chunks: tuple[tuple[NDArray[Any], ...], ...]

    @classmethod
    def open(cls, folders: Sequence[Path], views: int) -> Pool:
        """Map the chunks in `folders`."""
        return cls(
            views,
            tuple(
                tuple(np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS) for folder in folders
            ),
        )

    @property
    def scenes(self) -> int:
        """How many scenes there are."""
        return sum(len(chunk[0]) for chunk in self.chunks) // self.views

    def draw(self, scenes: int, random: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Return two different views of each of `scenes` different scenes of two random chunks.

        Images `(2, N, side, side, 3)`, features `(2, N, 1280)` and logits `(2, N, 1000)`.
        """
        parts: list[tuple[NDArray[Any], ...]] = []
        for share in (scenes - scenes // 2, scenes // 2):
            chunk = self.chunks[random.integers(len(self.chunks))]
            chosen = np.sort(random.choice(len(chunk[0]) // self.views, share, replace=False)) * self.views
            first = random.integers(self.views, size=share)
            second = (first + random.integers(1, self.views, size=share)) % self.views
            rows = np.stack([chosen + first, chosen + second])
            parts.append(tuple(part[rows] for part in chunk))
        return tuple(np.concatenate(pair, axis=1) for pair in zip(*parts, strict=True))


@cache
def _teacher(side: int, device: str) -> Ask:
    return asking(load_teacher(), side, device)


@lru_cache(maxsize=512)  # all of them decoded would be gigabytes for every process
def _picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _scene(plan: PoolPlan, pictures: Pictures, random: Random) -> Image.Image:
    if pictures.drawings and random.random() < plan.drawings:
        return cut_scene(_picture(random.choice(pictures.drawings)), random, least=0.6, cutouts=0)
    return cut_scene(_picture(random.choice(pictures.photographs)), random)


def _make_chunk(job: tuple[PoolPlan, int, Pictures]) -> int:
    """Make one chunk under another name and rename it, so that half a chunk is never taken for one."""
    plan, number, pictures = job
    random = Random(number)
    views: list[NDArray[Any]] = []
    for _ in range(plan.scenes):
        scene = _scene(plan, pictures, random)
        if random.random() < plan.blends:
            scene = blend(scene, _scene(plan, pictures, random), random)
        views += [np.asarray(vary(scene, TRAINING, random, plan.side)) for _ in range(plan.views)]
    images = np.stack(views)
    features, logits = _teacher(plan.teacher_side, plan.device)(images)
    folder = plan.folder / f"{number:03}.{os.getpid()}"
    folder.mkdir(parents=True)
    for part, values in zip(PARTS, (images, features, logits), strict=True):
        np.save(folder / f"{part}.npy", values)
    folder.rename(plan.folder / f"{number:03}")
    return number
