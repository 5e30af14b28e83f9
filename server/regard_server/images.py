"""Decode: the bytes of a picture become uint8 pixels at the model's input size.

    encoded ─→ open (header only) ─→ limits ─→ pixels ─→ upright ─→ RGB ─→ resize ─→ crop ─→ H×W×3 uint8
                                       │          │         └─ see `fitting.py`
                                       │          └─ of a JPEG: see `jpeg.py`
                                       └─ and memory, if there is so much now: see `budget.py`

EXIF orientation is applied, for every format; of several frames the first counts.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from regard_models import Preprocessing
from regard_server.budget import MemoryBudget
from regard_server.errors import (
    EmptyImageError,
    ImageTooLargeError,
    InvalidPixelsError,
    UndecodableImageError,
    UnknownFormatError,
)
from regard_server.fitting import CHANNELS, Pixels, fit
from regard_server.footprint import (
    SMALL_BYTES,
    SMALL_PIXELS,
    footprint,
    is_small,
    jpeg_footprint,
    raw_footprint,
    tile_pixels,
)
from regard_server.framing import turn_by, turn_of
from regard_server.jpeg import is_jpeg, read_jpeg

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# A scan can be a dozen bytes long and costs a pass over the whole picture: 1 MB of them over 49 megapixels keep a
# decoder busy for five minutes. Encoders write about ten; libtiff draws the same line.
_MAX_JPEG_SCANS: Final = 100
# Pillow expands run-length encoded BMPs in Python: a kilobyte of them over 40 megapixels takes four seconds.
_MAX_RLE_PIXELS: Final = 1_000_000
_START_OF_SCAN: Final = b"\xff\xda"
# Pillow keeps 64 times a million characters of a PNG's text, at up to 4 bytes each: a file of 70 KB took 270 MB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK

JpegReader: TypeAlias = Callable[[bytes, Image.Image, Preprocessing], Pixels | None]
"""Reads a JPEG elsewhere, at the model's input size; None where it has to be read here. See `gpu_jpeg.py`."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before it is decoded, and what memory those that are decoded in a pool share; None: any."""

    max_bytes: int
    max_pixels: int
    memory: MemoryBudget | None = None


def decode(
    data: bytes, limits: ImageLimits, preprocessing: Preprocessing, jpeg_reader: JpegReader | None = None
) -> Pixels:
    """Read an encoded picture: bytes -> (H, W, 3) at the model's input size.

    Args:
        data: the file.
        limits: what is refused before anything is decoded.
        preprocessing: of the model.
        jpeg_reader: asked first for what is within the limits, if it is given.

    Raises:
        EmptyImageError: no bytes.
        ImageTooLargeError: more bytes or pixels than allowed; nothing was decoded.
        UnknownFormatError: none of `FORMATS`.
        UndecodableImageError: truncated or corrupt.
        ShortOfMemoryError: to be called again once there is enough.
    """
    if not data:
        raise EmptyImageError("the image has zero bytes; expected an encoded file")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture.width, picture.height, limits)
            _check_scans(data, picture)
            _check_run_lengths(picture)
            _check_tiles(picture, limits)
            if jpeg_reader and (elsewhere := jpeg_reader(data, picture, preprocessing)) is not None:
                return elsewhere
            return _read_here(data, picture, limits, preprocessing)
    except UnidentifiedImageError as error:
        start = bytes(data[:16])
        if seeming := next((name for name in FORMATS if _seems(name, start)), None):
            raise UndecodableImageError(f"the image is a damaged {seeming}; is the file complete?") from error
        raise UnknownFormatError(
            f"the image is in no known format (it begins with {start[:8]!r}); expected one of {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"the image has too many pixels; at most {limits.max_pixels} are allowed"
        ) from error
    # Pillow's decoders raise these for damaged files, whatever the format; MemoryError is not among them.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        OverflowError,
        struct.error,
    ) as error:
        raise UndecodableImageError(f"the image cannot be decoded: {error}; is the file complete?") from error


def _read_here(
    data: bytes, picture: Image.Image, limits: ImageLimits, preprocessing: Preprocessing
) -> Pixels:
    """Read an opened picture that is within the limits."""
    memory = None if is_small(data, picture) else limits.memory
    if memory is not None:
        reduced_bytes = jpeg_footprint(data, picture, preprocessing.resize)
        _reserve(memory, reduced_bytes or footprint(data, picture))
    if reduced := read_jpeg(data, picture, preprocessing.resize):
        return fit(
            reduced.picture,
            preprocessing,
            turn=turn_of(picture),
            whole_size=picture.size,
            eighths=reduced.eighths,
        )
    if memory is not None and is_jpeg(picture):  # it takes more when Pillow reads it
        _reserve(memory, footprint(data, picture))
    picture.load()
    return fit(picture, preprocessing, turn=turn_by(picture.getexif()))


def fit_raw(
    data: bytes, height: int, width: int, limits: ImageLimits, preprocessing: Preprocessing
) -> Pixels:
    """Read raw pixels: height × width × 3 bytes -> (H, W, 3) at the model's input size.

    Raises:
        InvalidPixelsError: a side is zero, or the number of bytes is another.
        ImageTooLargeError: more pixels than allowed.
        ShortOfMemoryError: to be called again once there is enough.
    """
    expected = height * width * CHANNELS
    if not expected or len(data) != expected:
        raise InvalidPixelsError(
            f"raw pixels of {height}×{width} have {len(data)} bytes; expected height × width × 3 = {expected}, "
            "and neither side zero"
        )
    _check_size(width, height, limits)
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, CHANNELS)
    if fits(height, width, preprocessing):
        return pixels
    if limits.memory is not None and height * width > SMALL_PIXELS:
        _reserve(limits.memory, raw_footprint(height, width))
    return fit(Image.fromarray(pixels), preprocessing)


def _seems(form: str, start: bytes) -> bool:
    """Tell whether a file that cannot be opened begins like one of this format."""
    accept = Image.OPEN[form][1]
    return bool(accept and accept(start))


def fits(height: int, width: int, preprocessing: Preprocessing) -> bool:
    """Return whether pixels of this size are the network's input as they are."""
    return (height, width) == (preprocessing.height, preprocessing.width) == (preprocessing.resize,) * 2


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}×{height} = {width * height} pixels; at most {limits.max_pixels} are allowed"
        )


def _check_tiles(picture: Image.Image, limits: ImageLimits) -> None:
    """Refuse a TIFF whose tiles, each of which is decoded as a whole, are larger than pictures may be."""
    if picture.format == "TIFF" and (pixels := tile_pixels(picture)) > limits.max_pixels:
        raise ImageTooLargeError(
            f"the image's tiles have {pixels} pixels each; at most {limits.max_pixels} are allowed"
        )


def _reserve(memory: MemoryBudget, size: int) -> None:
    if size > SMALL_BYTES:
        memory.reserve(size)


def _check_scans(data: bytes, picture: Image.Image) -> None:
    scans = data.count(_START_OF_SCAN) if is_jpeg(picture) else 0
    if scans > _MAX_JPEG_SCANS:
        raise UndecodableImageError(
            f"the JPEG has {scans} scans; at most {_MAX_JPEG_SCANS} are read, and a progressive one needs about 10"
        )


def _check_run_lengths(picture: Image.Image) -> None:
    encoded = any(tile[0] == "bmp_rle" for tile in getattr(picture, "tile", ()))
    if encoded and picture.width * picture.height > _MAX_RLE_PIXELS:
        raise UndecodableImageError(
            f"the BMP is run-length encoded and has {picture.width}×{picture.height} pixels; at most "
            f"{_MAX_RLE_PIXELS} are read of such a file"
        )
