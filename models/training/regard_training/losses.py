"""What a student is asked to copy, and what it must learn beyond its teacher.

Per pair of views a, b of the same scene, of B scenes; e, f embeddings, t teacher's features, z logits:

    classes   KL(softmax(z_teacher) ‖ softmax(z))                                       of the same view
    features  1 − cos(W e, t − mean t)                                                  of the same view
    scenes    cross-entropy of softmax(cos(e, f) / 0.1) over the other 2B − 1 views,
              towards 0.7 on the other view of the scene, and 0.3 shared among all as the
              teacher finds them similar, its features averaged over the scene's views

The third is what makes a student better than its teacher at finding a varied picture again: the teacher never had to.
It works on the embedding itself, without a projection that would be thrown away, for the embedding is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 0.1
"""Of the softmax over the student's cosines."""
TEACHER_SHARPNESS = 0.15
"""Of the softmax over the teacher's cosines: its centred features are farther apart."""
OWN_SCENE = 0.7


@dataclass(frozen=True)
class Terms:
    """The three losses of one batch, each a scalar."""

    classes: Tensor
    features: Tensor
    scenes: Tensor

    @property
    def total(self) -> Tensor:
        """The sum that is minimised; the weights bring the terms to one size."""
        return self.classes + 4 * self.features + self.scenes


def distillation(
    embedding: Tensor, logits: Tensor, features: Tensor, wanted_logits: Tensor, mapping: nn.Linear
) -> Terms:
    """Compare a student with its teacher.

    Args:
        embedding: `(2B, D)`, first one view of each of B scenes, then the other views in the same order.
        logits: `(2B, 1000)` of the student.
        features: `(2B, 1280)`, the teacher's, centred.
        wanted_logits: `(2B, 1000)`, the teacher's.
        mapping: from D to 1280; trained along, and not shipped.
    """
    return Terms(
        functional.kl_div(
            logits.log_softmax(1),
            wanted_logits.log_softmax(1),
            reduction="batchmean",
            log_target=True,
        ),
        1 - functional.cosine_similarity(mapping(embedding), features).mean(),
        _scenes(embedding, features),
    )


def _scenes(embedding: Tensor, features: Tensor) -> Tensor:
    views = len(embedding)
    alone = torch.eye(views, dtype=torch.bool, device=embedding.device)
    found = _cosines(embedding).div(SHARPNESS).masked_fill(alone, float("-inf")).log_softmax(1)
    first, second = features.chunk(2)
    scene = (first + second).repeat(2, 1)
    similar = _cosines(scene).div(TEACHER_SHARPNESS).masked_fill(alone, float("-inf")).softmax(1)
    wanted = OWN_SCENE * alone.roll(views // 2, 1) + (1 - OWN_SCENE) * similar
    return -(wanted * found.masked_fill(alone, 0)).sum(1).mean()


def _cosines(vectors: Tensor) -> Tensor:
    directions = functional.normalize(vectors, dim=1)
    return directions @ directions.T
