"""What a server was asked, and how long its batches took: a file that `record.py` writes and `simulation.py` replays.

    # how it was made
    arrived_ms,kind,deadline_ms,batch,compute_ms
    12.3,small,250,4,17.25
    15.1,small,1000,,                 it was not answered

A line is a call, `batch` the size of the batch that it rode in and `compute_ms` what that took. Calls of one batch tell
the same of it, so a batch is a pair of the two.
"""

import csv
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

COLUMNS = ("arrived_ms", "kind", "deadline_ms", "batch", "compute_ms")


@dataclass(frozen=True)
class Recorded:
    """One call."""

    arrived_s: float
    kind: str
    deadline_s: float
    batch: int = 0
    compute_s: float = 0.0


@dataclass(frozen=True)
class Recording:
    """Calls in the order of their arrival."""

    calls: Sequence[Recorded]

    @classmethod
    def load(cls, path: Path) -> "Recording":
        with path.open(newline="") as file:
            rows = csv.DictReader(line for line in file if not line.startswith("#"))
            return cls(
                [
                    Recorded(
                        float(row["arrived_ms"]) / 1000,
                        row["kind"],
                        float(row["deadline_ms"]) / 1000,
                        int(row["batch"] or 0),
                        float(row["compute_ms"] or 0) / 1000,
                    )
                    for row in rows
                ]
            )

    def save(self, path: Path, remarks: Iterable[str]) -> None:
        with path.open("w", newline="") as file:
            file.writelines(f"# {remark}\n" for remark in remarks)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for call in self.calls:
                batch = (call.batch, f"{call.compute_s * 1000:.2f}") if call.batch else ("", "")
                arrived_ms, deadline_ms = f"{call.arrived_s * 1000:.1f}", f"{call.deadline_s * 1000:g}"
                writer.writerow([arrived_ms, call.kind, deadline_ms, *batch])

    def kinds(self) -> list[tuple[str, float]]:
        """Return kinds and deadlines that there are."""
        return sorted({(call.kind, call.deadline_s) for call in self.calls})

    @cached_property
    def batches(self) -> dict[str, dict[int, list[float]]]:
        """Seconds of every batch, by kind and size."""
        found = sorted({(call.kind, call.batch, call.compute_s) for call in self.calls if call.batch})
        batches: dict[str, dict[int, list[float]]] = {}
        for kind, size, seconds in found:
            batches.setdefault(kind, {}).setdefault(size, []).append(seconds)
        return batches

    def costs(self, kind: str, most: int) -> dict[int, float]:
        """Return the median of every size that came up, and of the largest batch that there may be, at its rate."""
        costs = {size: statistics.median(seconds) for size, seconds in self.batches[kind].items()}
        largest = max(costs)
        return {most: costs[largest] * most / largest} | costs

    def draw(self, kind: str, size: int, chance: random.Random) -> float:
        """Return what a batch of a size took; of the nearest size in proportion to the medians, if it never came up."""
        batches = self.batches[kind]
        nearest = min(batches, key=lambda each: (abs(each - size), each))
        drawn = chance.choice(batches[nearest])
        return drawn if nearest == size else drawn * self._median(kind, size) / self._median(kind, nearest)

    def _median(self, kind: str, size: int) -> float:
        """Return the median of a size: between two that came up on a straight line, beyond the last in proportion."""
        costs = {each: statistics.median(seconds) for each, seconds in self.batches[kind].items()}
        if size in costs:
            return costs[size]
        below = max((each for each in costs if each < size), default=None)
        above = min((each for each in costs if each > size), default=None)
        if below is None:
            return costs[above]
        if above is None:
            return costs[below] * size / below
        return costs[below] + (size - below) / (above - below) * (costs[above] - costs[below])
