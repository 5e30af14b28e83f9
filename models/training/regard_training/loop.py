"""First the trunk, then all students in turn, a slice of steps each, until the time is over.

A stop at any moment leaves them comparable. Several processes take slices beside each other. The student that has
learnt least is next, so that no two are ever more than a slice apart; when the time is over, those behind catch up.
What has been learnt lies in the folder `checkpoints`; the same command goes on from there, and a longer time makes it
learn more.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from regard_training.pool import Pool, complete_chunks
from regard_training.student import STUDENTS, Recipe, Student

if TYPE_CHECKING:
    from collections.abc import Sequence


TRUNK = "resnet_mini"


@dataclass(frozen=True)
class Training:
    """What to train, on what, for how long.

    Attributes:
        checkpoints: the folder that everything learnt lies in.
        pool: the folder of its chunks; those that are complete when a slice begins are used.
        views: of each scene in the pool.
        minutes: of all students together, earlier runs included.
        recipe: the same for all.
        students: their names.
        steps: of a slice.
        workers: processes beside each other; a single one is a thread of this process.
        threads: of each, for its arithmetic.
        device: where they run.
        trunk: the file of the network that new students begin from, if there is one.
    """

    checkpoints: Path
    pool: Path
    views: int
    minutes: float
    recipe: Recipe = field(default_factory=Recipe)
    students: tuple[str, ...] = STUDENTS
    steps: int = 50
    workers: int = 2
    threads: int = 1
    device: str = "cpu"
    trunk: Path | None = None

    def checkpoint(self, student: str) -> Path:
        """The file of one student."""
        return self.checkpoints / f"{student}.pt"

    @property
    def state(self) -> Path:
        """The file that says how far the run is."""
        return self.checkpoints / "state.json"


@dataclass
class Progress:
    """How far a run is: seconds spent, and steps done by each student."""

    spent_s: float
    steps: dict[str, int]

    def share(self, minutes: float) -> float:
        """The share of the time that is over."""
        return min(self.spent_s / (60 * minutes), 1) if minutes > 0 else 1

    def next(self, names: Sequence[str], busy: set[str], *, over: bool) -> str | None:
        """The free student that is most behind; once the time is over, only one that is behind the others."""
        free = [name for name in names if name not in busy]
        most = max(self.steps.values())
        if not free:
            return None
        chosen = min(free, key=lambda name: self.steps[name])
        return None if over and self.steps[chosen] >= most else chosen

    def due(self, name: str, steps: int, *, over: bool) -> int:
        """The steps of a student's next slice: once the time is over, no more than it is behind."""
        return min(steps, max(self.steps.values()) - self.steps[name]) if over else steps


def train(training: Training) -> Progress:
    """Train the trunk for its share of the time, then all students until the time is over.

    Once a student has begun, the trunk is left as it is: more minutes go to the students alone.
    """
    first = trunk_of(training)
    begun = any(training.checkpoint(name).exists() for name in training.students)
    spent = read_progress(first) if begun else learn(first)
    # A trunk that took longer than its share, by its last slice, takes nothing from the students.
    left = max(training.minutes - spent.spent_s / 60, training.minutes - first.minutes)
    return learn(replace(training, minutes=left, trunk=first.checkpoint(TRUNK)))


def begin_with_shipped(training: Training) -> None:
    """Let students that have learnt nothing yet begin with the shipped weights; there is no trunk then."""
    training.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in training.students:
        if not (path := training.checkpoint(name)).exists():
            Student.shipped(name, training.recipe, training.device).save(path)


def load_students(training: Training) -> list[Student]:
    """Return all students as they are now, on the CPU.

    Raises:
        FileNotFoundError: some have learnt nothing yet.
    """
    missing = [name for name in training.students if not training.checkpoint(name).exists()]
    if missing:
        raise FileNotFoundError(f"nothing learnt yet by {', '.join(missing)}: train for more minutes first")
    return [
        Student.load(training.checkpoint(name), name, training.recipe, "cpu") for name in training.students
    ]


def trunk_of(training: Training) -> Training:
    """Say how the trunk is trained: alone, in one process, on small images throughout."""
    return replace(
        training,
        checkpoints=training.checkpoints / "trunk",
        minutes=training.minutes * training.recipe.trunk,
        recipe=replace(training.recipe, grow=1.1),
        students=(TRUNK,),
        workers=1,
        threads=training.workers,
    )


def learn(training: Training) -> Progress:
    """Train until the time is over and all students have taken the same number of steps."""
    training.checkpoints.mkdir(parents=True, exist_ok=True)
    progress = read_progress(training)
    running: dict[Future[str], str] = {}
    clock = time.monotonic()
    with _executor(training.workers) as workers:
        while True:
            share = progress.share(training.minutes)
            while len(running) < training.workers:
                name = progress.next(training.students, set(running.values()), over=share >= 1)
                if name is None:
                    break
                steps = progress.due(name, training.steps, over=share >= 1)
                progress.steps[name] += steps  # counted when given out, so that all stay level
                running[workers.submit(learn_slice, training, name, share, steps)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                print(f"{share:6.1%} {future.result()}", flush=True)
            now = time.monotonic()
            progress.spent_s, clock = progress.spent_s + now - clock, now
            training.state.write_text(json.dumps({"spent_s": progress.spent_s}))
    return progress


def read_progress(training: Training) -> Progress:
    """Read how far earlier runs came; the checkpoints themselves know their steps."""
    spent = json.loads(training.state.read_text())["spent_s"] if training.state.exists() else 0.0
    steps = {name: _steps(training.checkpoint(name)) for name in training.students}
    return Progress(spent, steps)


def learn_slice(training: Training, name: str, share: float, steps: int) -> str:
    """Train one student for a number of steps, in this process; return a line that says how it goes."""
    torch.set_num_threads(training.threads)
    pool, mean = _opened(complete_chunks(training.pool), training.views)
    path = training.checkpoint(name)
    student = Student.load(path, name, training.recipe, training.device, trunk=training.trunk)
    random = np.random.default_rng((student.step, training.trunk is not None))
    began = time.monotonic()
    told: list[tuple[float, ...]] = []
    for _ in range(steps):
        terms = student.learn(pool.draw(training.recipe.scenes, random), mean, share)
        told.append(tuple(each.item() for each in (terms.classes, terms.features, terms.scenes)))
    student.save(path)
    classes, features, scenes = np.mean(told, axis=0)
    seen = steps * training.recipe.scenes * 2
    return (
        f"{name:<12} step {student.step:>6}  classes {classes:.3f}  features {features:.3f}  scenes {scenes:.3f}  "
        f"{seen / (time.monotonic() - began):.0f} views/s"
    )


def _executor(workers: int) -> Executor:
    """One worker needs no process of its own, which would take seconds to import torch."""
    return ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else ThreadPoolExecutor(workers)


def _steps(path: Path) -> int:
    return int(torch.load(path, map_location="cpu", weights_only=True)["step"]) if path.exists() else 0


@cache
def _opened(chunks: tuple[Path, ...], views: int) -> tuple[Pool, torch.Tensor]:
    """Map the pool, and average the teacher's features over its first chunk."""
    pool = Pool.open(chunks, views)
    return pool, torch.from_numpy(pool.chunks[0][1].astype(np.float32).mean(0))
