"""What is cut out of photographs: scenes, and the many ways in which the same scene may be seen.

A *scene* is a square piece of a photograph, sometimes pasted on white through a random outline, as a product or a
clip-art picture is, or most of a drawing. A *view* is what a user might send of it: turned, cropped, mirrored, too
bright, blurred, badly compressed. Asano & Saeed, *Extrapolating from a Single Image to a Thousand Classes using
Distillation*, 2021, arXiv 2112.00725, showed how far heavy crops of a few photographs reach.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

if TYPE_CHECKING:
    from random import Random

SCENE_SIDE = 224
WHITE = (255, 255, 255)
HALF = 127
LEAST_PIXELS = 96
"""The shortest side of a scene in its photograph: smaller ones are nothing but blur."""


@dataclass(frozen=True)
class Variation:
    """How much a view may differ from its scene.

    Attributes:
        degrees: of rotation, either way; corners that come free are white.
        area: least and most share of the scene that a square crop keeps.
        jitter: least and most factor of brightness, contrast and saturation.
        blur: largest radius, in pixels of a side of 224.
        quality: least and most JPEG quality.
    """

    degrees: float
    area: tuple[float, float]
    jitter: tuple[float, float]
    blur: float
    quality: tuple[int, int]


TRAINING = Variation(25, (0.3, 1.0), (0.55, 1.45), 1.8, (25, 90))
QUERY = Variation(20, (0.4, 1.0), (0.6, 1.4), 1.5, (30, 80))
"""The evaluation's. It was fixed before anything was trained."""


def cut_scene(
    picture: Image.Image, random: Random, *, least: float = 0.25, cutouts: float = 0.4
) -> Image.Image:
    """Cut a random square out of a picture.

    Args:
        picture: a photograph, or a drawing.
        random: decides where.
        least: share of the shorter side that the square keeps; the largest is all of it.
        cutouts: the share of squares that are pasted on white through a random outline.
    """
    width, height = picture.size
    least = min(max(LEAST_PIXELS / min(width, height), least), 1)
    side = math.exp(random.uniform(math.log(least), 0)) * min(width, height)
    stretch = math.exp(random.uniform(-0.15, 0.15))
    w, h = min(side * stretch, width), min(side / stretch, height)
    x, y = random.uniform(0, width - w), random.uniform(0, height - h)
    scene = picture.resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
    return _paste_on_white(scene, random) if random.random() < cutouts else scene


def blend(scene: Image.Image, other: Image.Image, random: Random) -> Image.Image:
    """Let one scene shine through another: no photograph shows it, and the teacher answers for it."""
    return Image.blend(scene, other, random.uniform(0.2, 0.5))


def vary(scene: Image.Image, variation: Variation, random: Random, side: int) -> Image.Image:
    """Return one view of a scene, `side` pixels square."""
    turned = scene.rotate(
        random.uniform(-variation.degrees, variation.degrees), Image.Resampling.BICUBIC, fillcolor=WHITE
    )
    crop = math.sqrt(random.uniform(*variation.area)) * scene.width
    x, y = random.uniform(0, scene.width - crop), random.uniform(0, scene.height - crop)
    view = turned.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + crop, y + crop))
    if random.random() < 1 / 2:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = change(view).enhance(random.uniform(*variation.jitter))
    view = view.filter(ImageFilter.GaussianBlur(random.uniform(0, variation.blur) * side / SCENE_SIDE))
    encoded = io.BytesIO()
    view.save(encoded, "JPEG", quality=random.randint(*variation.quality))
    return Image.open(encoded).convert("RGB")


def _paste_on_white(scene: Image.Image, random: Random) -> Image.Image:
    """Keep a random round or angular blob of a scene, shrunk and placed somewhere on white."""
    corners = random.randint(4, 14)
    wobble, squash = random.uniform(0, 0.45), random.uniform(0.45, 1)
    turn = random.uniform(0, math.tau)
    middle = SCENE_SIDE / 2
    outline: list[tuple[float, float]] = []
    for index in range(corners):
        angle = math.tau * index / corners
        radius = middle * random.uniform(1 - wobble, 1)
        across, along = radius * math.cos(angle), radius * squash * math.sin(angle)
        outline.append(
            (
                middle + across * math.cos(turn) - along * math.sin(turn),
                middle + across * math.sin(turn) + along * math.cos(turn),
            )
        )
    mask = Image.new("L", scene.size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 7))).point(
        lambda value: 255 * (value > HALF)
    )
    side = int(SCENE_SIDE * random.uniform(0.6, 1))
    place = (random.randint(0, SCENE_SIDE - side), random.randint(0, SCENE_SIDE - side))
    sheet = Image.new("RGB", scene.size, WHITE)
    sheet.paste(scene.resize((side, side)), place, mask.resize((side, side)))
    return sheet
