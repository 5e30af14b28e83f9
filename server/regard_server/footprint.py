"""What a picture takes in memory while it is decoded, by its header and never less than was measured.

    PNG, BMP, GIF        Pillow's pixels; two lines of a PNG besides, which may be one line
    TIFF                 these, twice where it is turned, and a strip or tile, once more in the codec
    WebP                 16 bytes a pixel: two canvases, a copy, Pillow's pixels; lossless, and transparency that is so:
                         Huffman tables, which may be a set for every 16 pixels
    JPEG, one scan       libjpeg's pixels of the reduced picture, and Pillow's of these: 7 bytes a pixel
    JPEG, more scans     all coefficients of the whole picture; then the same
    JPEG by Pillow       Pillow's pixels of the whole picture, beside its coefficients

Each with the file, and with what `fitting.py` works in.
"""

import re
from typing import Any, Final

from PIL import Image

from regard_server.framing import AS_IT_IS, turn_by
from regard_server.jpeg import HEADROOM, is_jpeg

SMALL_PIXELS: Final = 1 << 20
"""With no more pixels only TIFFs and lossless WebPs can take much: each of the others 16 MB, and its bands, at most."""
SMALL_BYTES: Final = 1 << 24
"""Not worth counting: one for each of the threads is little beside what a large picture takes."""

_RGB_BYTES: Final = 3
_PILLOW_BYTES: Final = 4
_MODE_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_WEBP_BYTES: Final = 16
# How many sets of tables there are the file says behind what would have to be decoded first.
_MOST_SETS: Final = 1 << 16
_SET_PIXELS: Final = 16
_SET_BITS: Final = 20  # five codes, of one symbol each
_SET_BYTES: Final = 6000
_GIF_BYTES: Final = 4  # a byte a pixel, what a frame leaves behind, and what was there before it
_COEFFICIENT_BYTES: Final = 2
_POINTER_BYTES: Final = 8
_LINE_BYTES: Final = 8  # of a line on its way, four samples of 16 bits; a PNG's is kept for the next
_WORKING_BYTES: Final = 10_000_000  # of a band, as it goes through its colours
# What follows a scan's marker and its length is the number of components in it.
_SCANS: Final = re.compile(rb"\xff\xda..(.)", re.DOTALL)
_BLOCK: Final = 8

# TIFF's tags and some of their values.
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 277, 278, 322, 323
_JPEGS: Final = frozenset({6, 7})
_YCBCR: Final = 6


def is_small(data: bytes, opened: Image.Image) -> bool:
    """Tell at a glance whether a picture takes so little that it need not be counted."""
    width, height = opened.size
    return (
        width * height <= SMALL_PIXELS
        and opened.format != "TIFF"
        and not (opened.format == "WEBP" and _has_tables(data))
    )


def jpeg_footprint(data: bytes, opened: Image.Image, target_side: int) -> int:
    """Return how many bytes `read_jpeg` takes for a file, and what is made of its pixels; 0: it is no JPEG.

    Colours that are then Pillow's to read are known by the header.

    Args:
        data: the file.
        opened: the same file, opened by Pillow.
        target_side: what its shorter side will be resized to.
    """
    if not is_jpeg(opened):
        return 0
    shorter, least = min(opened.size), HEADROOM * target_side
    eighths = min(8, -(-8 * least // shorter)) if shorter >= least else 8
    reduced = (-(-opened.width * eighths // 8)) * (-(-opened.height * eighths // 8))
    reading = _coefficient_bytes(data, opened) + _PILLOW_BYTES * reduced  # CMYK has as many as Pillow's
    taken = len(data) + max(reading, (_RGB_BYTES + _PILLOW_BYTES) * reduced) + _WORKING_BYTES
    return taken if opened.mode in {"RGB", "L"} else max(taken, footprint(data, opened))


def footprint(data: bytes, opened: Image.Image) -> int:
    """Return how many bytes Pillow takes to decode a file, and what is made of its pixels.

    Args:
        data: the file.
        opened: the same file, opened by Pillow.
    """
    width, height = opened.size
    pixels = width * height
    taken = _MODE_BYTES.get(opened.mode, _PILLOW_BYTES) * pixels + _POINTER_BYTES * height
    line = _LINE_BYTES * width
    match opened.format:
        case "PNG":
            line *= 2
        case "WEBP":
            taken = _WEBP_BYTES * pixels + _table_bytes(data, pixels)
        case "GIF":
            taken = _GIF_BYTES * pixels + _POINTER_BYTES * height
        case "TIFF":
            taken = _tiff_bytes(opened, taken)
        case _ if is_jpeg(opened):
            taken += _coefficient_bytes(data, opened)
    return len(data) + taken + line + _WORKING_BYTES


def raw_footprint(height: int, width: int) -> int:
    """Return how many bytes raw pixels take, and what is made of them."""
    return (_RGB_BYTES + _PILLOW_BYTES) * height * width


def tile_pixels(opened: Image.Image) -> int:
    """Return how many pixels a TIFF's tiles have, which may be more than the picture's; 0: it has none."""
    tags: Any = getattr(opened, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def _table_bytes(data: bytes, pixels: int) -> int:
    """Return what Huffman tables of a WebP may take: 400 MB for a megapixel, of which an honest file takes little."""
    if not _has_tables(data):
        return 0
    return _SET_BYTES * min(_MOST_SETS, pixels // _SET_PIXELS + 1, 8 * len(data) // _SET_BITS)


def _has_tables(data: bytes) -> bool:
    """Tell whether a WebP is lossless, or its transparency may be."""
    return b"VP8L" in data or b"ALPH" in data


def _tiff_bytes(opened: Image.Image, taken: int) -> int:
    """Return what a TIFF takes, given what Pillow's pixels do."""
    tags: Any = getattr(opened, "tag_v2", {})
    if turn_by(opened.getexif()) != AS_IT_IS:  # XMP may say so, too
        taken *= 2
    if all(tile[0] != "libtiff" for tile in getattr(opened, "tile", ())):
        return taken  # as it is in the file
    width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
    segment: int = tile_pixels(opened) or width * min(height, int(tags.get(_ROWS, height)))
    sample_bytes: int = -(-max(tags.get(_BITS, (1,))) * int(tags.get(_SAMPLES, 1)) // 8)
    # Once as it comes out of the codec, and once in it; coefficients have two bytes.
    bytes_of_segment = segment * sample_bytes * (3 if tags.get(_COMPRESSION) in _JPEGS else 2)
    if tags.get(_PHOTOMETRIC) == _YCBCR:
        bytes_of_segment += _PILLOW_BYTES * segment
    return taken + bytes_of_segment


def _coefficient_bytes(data: bytes, opened: Image.Image) -> int:
    """Return what libjpeg keeps of a JPEG until it has all of it: nothing, if its one scan has all components."""
    layers: list[tuple[int, int, int, int]] = getattr(opened, "layer", [])
    in_scans = {found[1][0] for found in _SCANS.finditer(data)}
    if "progressive" not in opened.info and in_scans == {len(layers)}:
        return 0
    across = max([1, *(layer[1] for layer in layers)])
    down = max([1, *(layer[2] for layer in layers)])
    units = -(-opened.width // (_BLOCK * across)) * -(-opened.height // (_BLOCK * down))
    return units * _BLOCK**2 * _COEFFICIENT_BYTES * sum(layer[1] * layer[2] for layer in layers)
