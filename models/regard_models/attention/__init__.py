"""The five attention mechanisms, and the table by which a spec's slots name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from regard_models.attention.module import AttentionModule, MapInfo, Maps

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MECHANISMS", "AttentionModule", "MapInfo", "Maps", "Site"]


@dataclass(frozen=True)
class Site:
    """Where in a trunk a mechanism is to be built.

    Attributes:
        channels: channels in and channels out.
        stride: how much smaller the result is.
        dilation: of the 3x3 that is replaced.
        groups: of the 3x3 that is replaced.
        size: height and width of the feature map at the model's own input size.
    """

    channels: tuple[int, int]
    stride: int
    dilation: int
    groups: int
    size: tuple[int, int]


MECHANISMS: dict[str, Callable[..., AttentionModule]] = {}
"""Builders by name: each takes a `Site` and the slot's arguments as keywords."""
