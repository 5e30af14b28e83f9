"""Fit: a decoded picture of any mode becomes uint8 RGB pixels at the model's input size.

Conversion rules: grey is repeated over the three channels; palettes are looked up; transparency is laid over white;
CMYK and other colour spaces go through Pillow's own conversion, embedded ICC profiles are not applied; 16-bit samples
keep their upper 8 bits, floating-point ones have no range to scale by and are refused.

Resizing is Pillow's antialiased filter on 8-bit pixels. Only the part of the picture that the crop keeps is
resampled, which gives the same pixels and saves the rest.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from regard_models import Preprocessing
from regard_server.errors import UndecodableImageError
from regard_server.framing import AS_IT_IS, Turn, frame

CHANNELS: Final = 3
_FILTERS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Pixels: TypeAlias = npt.NDArray[np.uint8]


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB, by the rules above."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
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


def fit(
    picture: Image.Image,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    *,
    eighths: int = 8,
    turn: Turn = AS_IT_IS,
) -> Pixels:
    """Resize so that the shorter side is `resize`, and cut the middle out.

    Args:
        picture: upright.
        size: its width and height before it was reduced.
        preprocessing: of the model.
        eighths: to how many it was; a side that was rounded up has a last pixel that stands for less than the others.
        turn: what made it upright; where it was turned over, that pixel is the first.
    """
    framed = frame(*size, preprocessing)
    width, height = size[0] * eighths / 8, size[1] * eighths / 8
    # The crop's corners in the picture's own pixels; each axis has its own scale after rounding.
    x_scale, y_scale = width / framed.width, height / framed.height
    x_first = picture.width - width if turn.mirrored else 0
    y_first = picture.height - height if turn.upside_down else 0
    box = (
        x_first + framed.left * x_scale,
        y_first + framed.top * y_scale,
        x_first + (framed.left + preprocessing.width) * x_scale,
        y_first + (framed.top + preprocessing.height) * y_scale,
    )
    resized = picture.resize(
        (preprocessing.width, preprocessing.height), _FILTERS[preprocessing.interpolation], box=box
    )
    return np.asarray(resized)
