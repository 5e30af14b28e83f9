"""What a model can hand out: names, kinds, shapes.

A name is the place in the network: `embedding`, `logits`, `layer1` … `layer4`, or a place and an attention
map (`layer4.2.attention`). Shapes are those at the model's own input size, without the batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from regard_models.errors import UnknownOutputError, near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind = Literal["embedding", "logits", "feature_map", "attention"]


@dataclass(frozen=True)
class OutputInfo:
    """One thing that `extract` can compute.

    Attributes:
        name: what to ask for.
        kind: what sort of thing it is.
        shape: its shape without the batch axis, at the model's own input size.
        axes: a name for every axis of `shape`, such as `channel`, `height`, `width`, `head`, `query`, `key`.
        description: one sentence for people.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    description: str


def check_outputs(asked: Sequence[str], offered: Mapping[str, OutputInfo]) -> None:
    """Refuse names that a model does not offer.

    Raises:
        UnknownOutputError: with the names that are near the first unknown one.
    """
    for name in asked:
        if name not in offered:
            raise UnknownOutputError(f"no output {name!r}; {near(name, offered)}")
