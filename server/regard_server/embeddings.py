"""The health of what is answered: lengths, NaN, collapse and drift of embeddings, for every fingerprint.

    event loop                            scrape
    offer(model, vector)                  collect()
      │ at most so many a second            │
      └─→ a short queue ───────────────────→ window, reference ─→ gauges

An offer costs a look at the clock; what is computed from the sample is computed when somebody scrapes, and not where
requests are answered. Series: one set for each model that is served.

The reference is made of the first embeddings that are sampled under a fingerprint, and kept in the cache folder:
later starts, and replicas that share the folder, measure against the same one. Remove the file to begin anew.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from regard_server.sketch import Reference, Window

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | SummaryMetricFamily

_LABELS = ("model", "fingerprint")
# What a window holds. Its mean is uncertain by a tenth of the embeddings' own spread, which is taken into account.
_WINDOW = 128
# Below this, nothing is said of similarity, rank and drift.
_FEW = 16
# Samples that wait for a scrape; older ones give way.
_PENDING = 256


class _Watched:
    """What is known of one model's embeddings."""

    def __init__(self, model: str, fingerprint: str, dimensions: int) -> None:
        self.labels = (model, fingerprint)
        self.dimensions = dimensions
        self.due = 0.0
        self.pending: deque[npt.NDArray[np.float32]] = deque(maxlen=_PENDING)
        self.nonfinite = 0
        self.norm_sum = 0.0
        self.norm_count = 0
        self.window = Window(_WINDOW)
        self.reference: Reference | None = None
        self.learning: npt.NDArray[np.float64] | None = None  # sum of directions, on the way to a reference
        self.learnt = 0

    def add(self, embedding: npt.NDArray[np.float32]) -> None:
        vector = embedding.astype(np.float64).ravel()
        norm = float(np.linalg.norm(vector))
        self.norm_sum += norm
        self.norm_count += 1
        if norm:  # zero has no direction
            direction = vector / norm
            self.window.add(direction)
            if self.reference is None:
                self.learning = direction if self.learning is None else self.learning + direction
                self.learnt += 1


class EmbeddingHealth(Collector):
    """Samples embeddings and tells Prometheus how they are; one for a server.

    Args:
        samples_per_s: of each model, at most; 0 switches sampling off.
        reference_samples: how many make a reference.
        folder: where references are kept; None: in memory only.
        logger: told of references that are made, found or cannot be kept.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        samples_per_s: float,
        reference_samples: int,
        folder: Path | None,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1 / samples_per_s if samples_per_s else math.inf
        self._reference_samples = reference_samples
        self._folder = folder
        self._logger = logger
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._lock = Lock()  # scrapes may overlap

    def watch(self, model: str, fingerprint: str, dimensions: int) -> None:
        """Begin with a model, whose embeddings are so long, from the reference that is known of its fingerprint."""
        watched = _Watched(model, fingerprint, dimensions)
        watched.due = math.inf if self._interval_s == math.inf else 0.0
        watched.reference = self._load(watched)
        self._watched[model] = watched

    def offer(self, model: str, outputs: Mapping[str, npt.NDArray[np.float32]], place: int = 0) -> None:
        """Take the embedding of one of these images, if one is due; called once a batch, from one thread.

        Args:
            model: the model's name.
            outputs: by name, each (images, …).
            place: which image.
        """
        watched = self._watched.get(model)
        if watched is None or (now := self._clock()) < watched.due:
            return
        if "embedding" in outputs:
            watched.due = now + self._interval_s
            watched.pending.append(outputs["embedding"][place].copy())  # a view would keep its whole batch

    def nonfinite(self, model: str) -> None:
        """Count an image whose outputs held NaN or infinity."""
        if watched := self._watched.get(model):
            watched.nonfinite += 1

    def collect(self) -> Iterator[Family]:
        """Digest what was sampled, and yield every family, those without samples too."""
        with self._lock:
            for watched in self._watched.values():
                self._digest(watched)
            yield from _families(list(self._watched.values()))

    def _digest(self, watched: _Watched) -> None:
        while watched.pending:
            watched.add(watched.pending.popleft())
        if watched.learning is not None and watched.learnt >= self._reference_samples:
            made = Reference(watched.learning / watched.learnt, watched.learnt)
            watched.reference = self._keep(watched, made)
            watched.learning = None

    def _path(self, watched: _Watched) -> Path | None:
        return self._folder and self._folder / f"embeddings-{watched.labels[1]}.safetensors"

    def _load(self, watched: _Watched) -> Reference | None:
        path = self._path(watched)
        if path is None or not path.is_file():
            return None
        try:
            return Reference.load(path, watched.dimensions)
        except (OSError, ValueError) as error:
            self._logger.warning("no reference of embeddings, one is made that is not kept: %s", error)
            return None

    def _keep(self, watched: _Watched, made: Reference) -> Reference:
        """Write a reference down; return the one that counts, which is another replica's if it was faster."""
        path = self._path(watched)
        if path is None:
            return made
        try:
            if made.save(path):
                self._logger.info("%d embeddings are the reference from now on: %s", made.count, path)
                return made
        except OSError as error:
            self._logger.warning("the reference of embeddings cannot be kept in %s: %s", path, error)
        return self._load(watched) or made


def _families(watched: list[_Watched]) -> Iterator[Family]:
    norm = SummaryMetricFamily(
        "regard_embedding_norm", "Lengths of the embeddings that were sampled.", labels=_LABELS
    )
    nonfinite = CounterMetricFamily(
        "regard_nonfinite", "Images for which the network gave NaN or infinity.", labels=_LABELS
    )
    similarity = GaugeMetricFamily(
        "regard_embedding_similarity",
        "Mean cosine of two recent embeddings; 1: all are the same.",
        labels=_LABELS,
    )
    expected = GaugeMetricFamily(
        "regard_embedding_reference_similarity",
        "Mean cosine of two embeddings of the reference.",
        labels=_LABELS,
    )
    rank = GaugeMetricFamily(
        "regard_embedding_effective_rank",
        "How many directions recent embeddings vary in.",
        labels=_LABELS,
    )
    drift = GaugeMetricFamily(
        "regard_embedding_drift",
        "How far recent embeddings' mean direction is from the reference's, in units of the reference's spread.",
        labels=_LABELS,
    )
    for each in watched:
        norm.add_metric(each.labels, count_value=each.norm_count, sum_value=each.norm_sum)
        nonfinite.add_metric(each.labels, each.nonfinite)
        if each.reference:
            expected.add_metric(each.labels, each.reference.similarity)
        if len(each.window) >= _FEW:
            recent = each.window.summary()
            similarity.add_metric(each.labels, recent.similarity)
            rank.add_metric(each.labels, each.window.rank())
            if each.reference:
                drift.add_metric(each.labels, each.reference.drift(recent))
    yield from (norm, nonfinite, similarity, expected, rank, drift)
