"""JPEG pixels from libjpeg-turbo directly: what Pillow gives, of large pictures sooner, and none that are made up.

A picture that will be shrunk a lot is decoded at a fraction of its size (n/8, in the frequency domain): the smallest
whose sides are both still at least twice the side it is then resized to. Resizing takes the rest, so the result stays
close to that of the whole picture: vectors of photographs have a cosine of 0.999 with those of Pillow's pixels, or
more. Those of stripes of a pixel or two have not, for reducing leaves of them what resizing would have blurred away.
`tests/benchmarks/decoding.py` measures how much more, and how much sooner.

A side that is no multiple of eight is rounded up when it is reduced, and its last row or column stands for less than
the others: where the picture is cut and resized, it is measured in exact eighths. A picture that is narrower than that
smallest is read whole: three columns would still be three at 5/8, and not tell by how much it was reduced.
"""

import struct
from typing import Final, NamedTuple

import simplejpeg
from PIL import Image

from regard_server.errors import UndecodableImageError

# A reduction to less than twice the target shows in the vectors; measured by the benchmark.
HEADROOM = 2
# libjpeg's warnings of lost pixels; of others, such as bytes too many between segments, the pixels know nothing, unless
# it is a restart that they come before.
_DAMAGE = (
    "Premature end of JPEG file",
    "premature end of data segment",
    "bad Huffman code",
    "instead of RST",
    "bad arithmetic code",
    *(f"extraneous bytes before marker 0xd{number}" for number in range(8)),
)
# What begins a frame: its marker, the header's length, bits a sample, height, width, and the number of components.
_FRAME: Final = struct.Struct(">HHBHHB")
_LOSSLESS: Final = 0xFFC3


class Reduced(NamedTuple):
    """A JPEG's pixels as they are stored, and at how many eighths of its size they are; 8: whole."""

    picture: Image.Image
    eighths: int


def read_jpeg(data: bytes, opened: Image.Image, target_side: int) -> Reduced | None:
    """Return a JPEG's pixels, at least `HEADROOM` × `target_side` on the shorter side where the picture has as many.

    Args:
        data: the file.
        opened: the same file, opened by Pillow, which has read its header.
        target_side: what its shorter side will be resized to.

    None where Pillow has to read it: CMYK and the like, a lossless one, or a file that a strict decoder refuses and
    Pillow may not.

    Raises:
        UndecodableImageError: part of the picture is missing or damaged. Pillow would make it up, in grey, where the
            file has an end.
    """
    if not is_jpeg(opened) or _is_lossless(data, opened):
        return None
    least = HEADROOM * target_side
    if min(opened.size) < least:
        least = 0  # whole
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least)
    except ValueError as error:
        if any(words in str(error) for words in _DAMAGE):
            raise UndecodableImageError(f"the JPEG is damaged: {error}; is the file complete?") from error
        return None
    if opened.mode not in {"RGB", "L"}:
        return None  # colours as Pillow has them; this was to see whether the picture is whole
    picture = Image.fromarray(pixels)
    return Reduced(picture, 8 * picture.width // opened.width)


def is_jpeg(opened: Image.Image) -> bool:
    """Tell whether Pillow takes a file for a JPEG; for one with others behind it (MPO), too."""
    return opened.format in {"JPEG", "MPO"}


def _is_lossless(data: bytes, opened: Image.Image) -> bool:
    """Tell whether a JPEG is without DCT: libjpeg-turbo reduces none, and writes all of it into room for less."""
    components = len(opened.getbands())
    return _FRAME.pack(_LOSSLESS, 8 + 3 * components, 8, *opened.size[::-1], components) in data
