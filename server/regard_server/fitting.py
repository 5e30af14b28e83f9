"""Fit: a decoded picture of any mode, whichever way up, becomes uint8 RGB pixels at the model's input size.

    as stored ─→ upright ─→ RGB ─→ resized across ─→ resized down ─→ H×W×3 uint8
                 └── a band of rows at a time ──┘

Conversion rules: grey is repeated over the three channels; palettes are looked up; transparency is laid over white;
CMYK and other colour spaces go through Pillow's own conversion, embedded ICC profiles are not applied; 16-bit samples
keep their upper 8 bits, floating-point ones have no range to scale by and are refused.

Resizing is Pillow's antialiased filter on 8-bit pixels. Only the part of the picture that the crop keeps is
resampled, which gives the same pixels and saves the rest.

A picture may have 200 MB, and each step from there to RGB would take as much again: transparency five times as much. So
they are taken in bands. Resizing bears that: Pillow, too, resizes rows first, rounds them to 8 bits, and then columns.
Of tall pictures it resizes columns first: so they are laid on their side, and then back. The pixels are Pillow's.
"""

from math import ceil, floor
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from regard_models import Preprocessing
from regard_server.errors import UndecodableImageError
from regard_server.framing import AS_IT_IS, Turn, frame

CHANNELS: Final = 3
_FILTERS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# How far the filters reach, in pixels of the larger of both pictures.
_REACH: Final = {Image.Resampling.BICUBIC: 2, Image.Resampling.BILINEAR: 1}
# Pillow's rule, by which the pixels stay the same: https://github.com/python-pillow/Pillow/pull/9549
_TALL_GO_DOWN_FIRST: Final = int(PIL.__version__.split(".")[0]) >= 13  # noqa: PLR2004
# 6 MB at the most. Smaller ones are no faster, and each costs a LAB picture 8 ms for its conversion to be set up.
_BAND_PIXELS: Final = 1 << 18

Pixels: TypeAlias = npt.NDArray[np.uint8]


def fit(
    stored: Image.Image,
    preprocessing: Preprocessing,
    *,
    turn: Turn = AS_IT_IS,
    whole_size: tuple[int, int] | None = None,
    eighths: int = 8,
) -> Pixels:
    """Turn upright, resize so that the shorter side is `resize`, and cut the middle out: -> (H, W, 3).

    Args:
        stored: the picture, decoded.
        preprocessing: of the model.
        turn: what makes it upright; where that turns it over, its last pixel comes first.
        whole_size: width and height as stored before it was reduced, if it was.
        eighths: to how many; a side that was rounded up has a last pixel that stands for less than the others.

    Raises:
        UndecodableImageError: floating-point samples.
    """
    whole_width, whole_height = turn.size(whole_size or stored.size)
    framed = frame(whole_width, whole_height, preprocessing)
    width, height = whole_width * eighths / 8, whole_height * eighths / 8
    # The crop's corners in the picture's own pixels; each axis has its own scale after rounding.
    x_scale, y_scale = width / framed.width, height / framed.height
    upright_width, upright_height = turn.size(stored.size)
    x_first = upright_width - width if turn.mirrored else 0
    y_first = upright_height - height if turn.upside_down else 0
    box = (
        x_first + framed.left * x_scale,
        y_first + framed.top * y_scale,
        x_first + (framed.left + preprocessing.width) * x_scale,
        y_first + (framed.top + preprocessing.height) * y_scale,
    )
    size, method = (preprocessing.width, preprocessing.height), _FILTERS[preprocessing.interpolation]
    if _is_rgb(stored) and turn == AS_IT_IS:
        resized = stored.resize(size, method, box=box)
    elif _goes_down_first(turn.size(stored.size), size):
        sideways = (box[1], box[0], box[3], box[2])
        resized = _resize(stored, turn.sideways(), size[::-1], method, sideways).transpose(
            Image.Transpose.TRANSPOSE
        )
    else:
        resized = _resize(stored, turn, size, method, box)
    return np.asarray(resized)


def _goes_down_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Tell whether Pillow would resize columns first, which rounds other numbers."""
    (width, height), (target_width, target_height) = size, target
    return _TALL_GO_DOWN_FIRST and height - target_height > max(0, 2 * (width - target_width))


def _resize(
    stored: Image.Image,
    turn: Turn,
    target: tuple[int, int],
    method: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    """Resize a box of the upright picture, which is never there as a whole: rows first, a band at a time."""
    (width, height), (target_width, target_height) = turn.size(stored.size), target
    left, right, x_box = _seen(box[0], box[2], width, target_width, _REACH[method])
    top, bottom, y_box = _seen(box[1], box[3], height, target_height, _REACH[method])
    across = Image.new("RGB", (target_width, bottom - top))
    rows = max(1, _BAND_PIXELS // (right - left))
    for first in range(top, bottom, rows):
        last = min(first + rows, bottom)
        band = _to_rgb(turn.part(stored, (left, first, right, last))).resize(
            (target_width, last - first), method, box=(x_box[0], 0, x_box[1], last - first)
        )
        across.paste(band, (0, first - top))
    return across.resize(target, method, box=(0, y_box[0], target_width, y_box[1]))


def _seen(
    first: float, last: float, side: int, target: int, reach: int
) -> tuple[int, int, tuple[float, float]]:
    """Return which pixels of a side the filter looks at, from and to, and where in these the resized part lies.

    Args:
        first: where in the side that part begins.
        last: where it ends.
        side: of the picture.
        target: what the part is resized to.
        reach: of the filter.
    """
    # Pillow takes a box as float32, from which a whole number can then be subtracted without loss.
    first, last = float(np.float32(first)), float(np.float32(last))
    margin = reach * max((last - first) / target, 1)
    start, end = max(0, floor(first - margin)), min(side, ceil(last + margin))
    return start, end, (first - start, last - start)


def _is_rgb(picture: Image.Image) -> bool:
    return picture.mode == "RGB" and "transparency" not in picture.info


def _to_rgb(picture: Image.Image) -> Image.Image:
    if _is_rgb(picture):
        return picture
    if picture.mode == "F":
        raise UndecodableImageError("the image has floating-point samples; expected 8 or 16 bits a channel")
    if picture.mode in {"I", "I;16", "I;16L", "I;16B", "I;16N"}:
        # Pillow clips these to 0…255 instead of scaling; keep the upper 8 of 16 bits.
        samples: npt.NDArray[Any] = np.asarray(picture)
        return Image.fromarray((np.clip(samples, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return picture.convert("RGB")
