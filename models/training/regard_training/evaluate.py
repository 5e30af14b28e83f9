"""How good features are, by three measures on pictures that were never trained on.

1.  Retrieval: of all held-out pictures, the one that a query was made from shall be the nearest by cosine. recall@1
    is the share for which it is; mAP the mean of 1 / rank, as each query has one right answer.
2.  Agreement with the teacher: how often the network's best class is the teacher's, or among the teacher's five best;
    and the cosine of the teacher's centred features with what ridge regression makes of the network's. The regression
    is fitted to views of other cut-outs, never trained on either, with the same penalty for every network.
3.  Categories: whether the five nearest of the other Tux Paint cut-outs, by majority, lie in the same folder.

Measures 1 and 3 are taken over the cut-outs as in the calibration: their queries are searched for among all held-out
pictures. Retrieval of the photographs is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from regard_training.student import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regard_models.backbones import ResNet
    from regard_training.held_out import HeldOut

NEIGHBOURS = 5
PENALTY = 1e-2
"""Of the ridge regression, relative to the features' mean square."""
BATCH = 64

Answers: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
Network: TypeAlias = Callable[[NDArray[Any]], Answers]
"""Images `(N, h, w, 3)` uint8 to features `(N, D)` and class scores `(N, 1000)`."""


@dataclass(frozen=True)
class Figures:
    """What was measured of one network. Everything is a share of 1; recall and mAP are means over the seeds.

    Attributes:
        recall_at_1: over queries of cut-outs.
        recall_spread: standard deviation of `recall_at_1` over the seeds.
        mean_average_precision: likewise over queries of cut-outs.
        photograph_recall_at_1: over queries of photographs.
        category_accuracy: of cut-outs.
        teacher_top1: agreement of the best class with the teacher's best.
        teacher_top5: with one of the teacher's five best.
        feature_cosine: of mapped features with the teacher's.
    """

    recall_at_1: float
    recall_spread: float
    mean_average_precision: float
    photograph_recall_at_1: float
    category_accuracy: float
    teacher_top1: float | None = None
    teacher_top5: float | None = None
    feature_cosine: float | None = None


@dataclass(frozen=True)
class Reference:
    """What networks are compared with: the teacher's answers for the held-out pictures, and its features for others."""

    pictures: Answers
    fitting_images: NDArray[Any]
    fitting_features: NDArray[Any]


def measure(network: Network, data: HeldOut, reference: Reference | None = None) -> Figures:
    """Measure one network; without a reference, or for features that have no classes, without agreement."""
    features, logits = network(data.pictures)
    cutouts = len(data.categories)
    recalls, precisions, of_photographs = [], [], []
    for queries in data.queries:
        ranks = ranks_of_sources(network(queries)[0], features)
        recalls.append(float((ranks[:cutouts] == 1).mean()))
        precisions.append(float((1 / ranks[:cutouts]).mean()))
        of_photographs.append(float((ranks[cutouts:] == 1).mean()) if len(ranks) > cutouts else 1.0)
    top1, top5, cosine = _agreement(network, features, logits, reference) if reference else (None, None, None)
    return Figures(
        recall_at_1=float(np.mean(recalls)),
        recall_spread=float(np.std(recalls)),
        mean_average_precision=float(np.mean(precisions)),
        photograph_recall_at_1=float(np.mean(of_photographs)),
        category_accuracy=category_accuracy(features[:cutouts], data.categories),
        teacher_top1=top1,
        teacher_top5=top5,
        feature_cosine=cosine,
    )


def ranks_of_sources(queries: NDArray[Any], gallery: NDArray[Any]) -> NDArray[Any]:
    """Return for the n-th query the rank, from 1, of the n-th picture among all."""
    similar = unit(queries) @ unit(gallery).T
    return np.asarray(1 + (similar > np.diag(similar)[:, None]).sum(1))


def category_accuracy(features: NDArray[Any], categories: Sequence[str]) -> float:
    """Return the share of pictures whose nearest five others have mostly their category; the nearer win a tie."""
    directions = unit(features)
    similar = directions @ directions.T
    np.fill_diagonal(similar, -np.inf)
    right = 0
    for row, category in zip(similar, categories, strict=True):
        nearest = [categories[other] for other in np.argsort(-row)[:NEIGHBOURS]]
        right += Counter(nearest).most_common(1)[0][0] == category
    return right / len(categories)


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Bring vectors `(N, D)` to length 1."""
    numbers = vectors.astype(np.float64)
    return np.asarray(numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), 1e-12))


def student_network(network: ResNet, side: int) -> Network:
    """Ask a student for its embedding and class scores of images shrunk to `side`."""
    network.eval()

    @torch.inference_mode()
    def ask(images: NDArray[Any]) -> Answers:
        parts = [
            network.extract(
                prepare(torch.tensor(images[start : start + BATCH]), side), ("embedding", "logits")
            )
            for start in range(0, len(images), BATCH)
        ]
        embedding, logits = (torch.cat([part[name] for part in parts]).numpy() for name in parts[0])
        return embedding, logits

    return ask


def pixels(side: int) -> Network:
    """Make features of nothing but the pixels of an image shrunk to `side`; all class scores are zero."""

    def ask(images: NDArray[Any]) -> Answers:
        small = prepare(torch.tensor(images), side)
        return small.flatten(1).numpy(), np.zeros((len(images), 1))

    return ask


def _agreement(
    network: Network, features: NDArray[Any], logits: NDArray[Any], reference: Reference
) -> tuple[float | None, float | None, float]:
    wanted_features, wanted_logits = (part.astype(np.float64) for part in reference.pictures)
    mean = reference.fitting_features.astype(np.float64).mean(0)
    mapped = _ridge(network(reference.fitting_images)[0], reference.fitting_features - mean, features)
    cosine = float((unit(mapped) * unit(wanted_features - mean)).sum(1).mean())
    if logits.shape[1] != wanted_logits.shape[1]:
        return None, None, cosine
    best = logits.argmax(1)
    five = np.argsort(-wanted_logits, 1)[:, :5]
    return float((best == five[:, 0]).mean()), float((five == best[:, None]).any(1).mean()), cosine


def _ridge(inputs: NDArray[Any], outputs: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    """Fit a linear map with an offset from `inputs` to `outputs` and apply it to `asked`."""
    mean = inputs.astype(np.float64).mean(0)
    centred = inputs - mean
    square = centred.T @ centred
    square += PENALTY * np.trace(square) / len(square) * np.eye(len(square))
    return np.asarray((asked - mean) @ np.linalg.solve(square, centred.T @ outputs))
