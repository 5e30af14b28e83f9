"""Where a network looks: an attention map laid over the picture that it was computed from.

    map (H', W') or (slots, H', W') ─→ strongest slot ─→ 0…1 ─→ scaled up ─→ coloured ─→ over the picture

The picture is cut out as the server cuts it, so that map and picture fit. Needs Pillow (extra "cli").
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from regard_client.catalog import Model, OutputInfo, Preprocessing

if TYPE_CHECKING:
    from PIL import Image

# From dark blue over red to light yellow: dark where attention is low, so that it also reads in grey.
_COLOURS: Final = np.array(
    [(0, 0, 40), (60, 10, 110), (150, 40, 110), (220, 80, 60), (250, 160, 40), (255, 245, 160)], np.float32
)
_OPACITY: Final = 0.6
_SPATIAL: Final = ("height", "width")


def spatial_attention(model: Model) -> OutputInfo:
    """Return the attention map to show: the last one, nearest to the embedding, that has places.

    Raises:
        ValueError: the model has none; its attention, if any, is over branches or channels.
    """
    maps = [
        output
        for output in model.outputs.values()
        if output.kind == "attention" and tuple(output.axes[-2:]) == _SPATIAL
    ]
    if not maps:
        with_places = "ea_mini, mhsa_mini or da_mini"
        raise ValueError(
            f"model {model.name!r} has no attention map over places to lay over a picture; one of {with_places} has"
        )
    return maps[-1]


def heat(attention: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return attention as 0…1: (…, H, W) -> (H, W), of several slots the strongest; flat maps become 0."""
    places = attention.reshape(-1, *attention.shape[-2:]).max(axis=0).astype(np.float32)
    low, high = float(places.min()), float(places.max())
    scaled: npt.NDArray[np.float32] = (places - low) / max(high - low, np.finfo(np.float32).tiny)
    return scaled


def overlay(
    photograph: str | Path, attention: npt.NDArray[Any], preprocessing: Preprocessing
) -> "Image.Image":
    """Return the part of a photograph that the network saw, with its attention over it.

    Raises:
        OSError: the file cannot be read as a picture.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra

    with Image.open(photograph) as opened:
        picture = _cut(ImageOps.exif_transpose(opened).convert("RGB"), preprocessing)
    scaled = Image.fromarray(heat(attention)).resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(_colour(np.asarray(scaled).clip(0, 1)))
    return Image.blend(picture, colours, _OPACITY)


def _cut(picture: "Image.Image", preprocessing: Preprocessing) -> "Image.Image":
    """Resize the shorter side and cut the middle out, as the server does."""
    height, width = preprocessing.height, preprocessing.width
    scale = preprocessing.resize / min(picture.size)
    resized = picture.resize(
        (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def _colour(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) in 0…1 -> (H, W, 3)."""
    steps = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(values, steps, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)
