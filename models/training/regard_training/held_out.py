"""The held-out pictures, and the queries made from them: what every network is measured on.

The gallery is every picture that was never trained on: the Tux Paint cut-outs pasted on white, the sample photographs
of the models package, and the large photographs of one package. A query is a view of one of them, varied as
`crops.QUERY` says.

The cut-outs that the protocol leaves out, of the same package, are apart from these, and were never trained on either:
networks' features are mapped to the teacher's by them, and `elsewhere.py` measures on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard_models.samples import sample_photographs
from regard_training.crops import QUERY, SCENE_SIDE, vary
from regard_training.pictures import on_white, pictures_of, stamps
from regard_training.sources import LARGE, STAMPS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class HeldOut:
    """Pictures and queries.

    Attributes:
        pictures: `(N, 224, 224, 3)` uint8; the cut-outs first.
        categories: of the first pictures, those that have one.
        queries: `(seeds, N, 224, 224, 3)` uint8; the n-th of each seed shows the n-th picture.
    """

    pictures: NDArray[Any]
    categories: tuple[str, ...]
    queries: NDArray[Any]


def held_out(cache: Path, seeds: Sequence[int] = SEEDS) -> HeldOut:
    """Collect the pictures, fetching the packages if they are not there, and make the queries."""
    cutouts, _ = stamps(STAMPS, cache)
    pictures = [on_white(path, SCENE_SIDE) for path, _ in cutouts]
    pictures += [square(path) for path in (*sample_photographs(), *pictures_of(LARGE, cache))]
    return made_from(pictures, [category for _, category in cutouts], seeds)


def left_out(cache: Path, seeds: Sequence[int] = SEEDS) -> HeldOut:
    """Collect the cut-outs that `held_out` has not: cartoons, clothes, houses, letters, road signs and the like."""
    _, others = stamps(STAMPS, cache)
    return made_from(
        [on_white(path, SCENE_SIDE) for path, _ in others], [category for _, category in others], seeds
    )


def made_from(pictures: Sequence[Image.Image], categories: Sequence[str], seeds: Sequence[int]) -> HeldOut:
    """Make the queries of pictures of 224 pixels square."""
    queries = [
        np.stack([np.asarray(vary(picture, QUERY, random, SCENE_SIDE)) for picture in pictures])
        for random in (Random(f"query {seed}") for seed in seeds)
    ]
    return HeldOut(np.stack([np.asarray(each) for each in pictures]), tuple(categories), np.stack(queries))


def square(path: Path) -> Image.Image:
    """Return the middle of a photograph, 224 pixels square."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    side = min(picture.size)
    x, y = (picture.width - side) / 2, (picture.height - side) / 2
    return picture.resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
