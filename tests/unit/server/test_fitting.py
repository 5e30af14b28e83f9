"""Fitting: bands give what the whole picture gives, in little more memory than it takes itself."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from regard_models import Preprocessing
from regard_server.fitting import fit
from regard_server.framing import turn_by

# How many bytes a pixel has in memory.
MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "LA": 4, "RGB": 4, "RGBA": 4, "CMYK": 4, "YCbCr": 4}
TRANSPARENT = {"L": 255, "P": bytes(range(256)), "RGB": (255, 0, 255)}
BOUNDED = """
import resource, sys
from regard_models import Preprocessing
from regard_server.images import ImageLimits, decode

small, large = (open(path, "rb").read() for path in sys.argv[1:3])
limits, prepared = ImageLimits(1 << 24, 9_000_000), Preprocessing(24, 24, 32)
decode(small, limits, prepared)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(sys.argv[3]), -1))
assert decode(large, limits, prepared).shape == (24, 24, 3)
"""


def noise(mode, height, width, seed):
    """Return a picture of random pixels, all shades or only the darkest and the brightest."""
    chance = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(chance.integers(0, 1 << 16, (height, width), np.uint16))
    pixels = chance.integers(0, 256, (height, width, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    if seed % 2:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[..., 0] > 127)
    picture = Image.frombytes(mode, (width, height), pixels.tobytes())
    if mode == "P":
        picture.putpalette(chance.integers(0, 256, 768, np.uint8).tobytes())
    return picture


def rgb_at_once(picture):
    """Return a whole picture as RGB, by the rules."""
    if picture.mode == "I;16":
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


@settings(max_examples=200)
@given(
    kind=st.sampled_from([(mode, None) for mode in MODES] + list(TRANSPARENT.items())),
    orientation=st.integers(1, 8),
    sides=st.tuples(st.integers(1, 1500), st.integers(1, 1500)) | st.sampled_from([(1, 9000), (9000, 2)]),
    prepared=st.builds(
        Preprocessing,
        height=st.integers(1, 100),
        width=st.integers(1, 100),
        resize=st.integers(100, 300),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_bands_give_the_pixels_of_the_whole(kind, orientation, sides, prepared, seed):
    """Whatever its mode and shape and way up, a picture is fitted as Pillow does it of one upright RGB picture."""
    mode, transparent = kind
    picture = noise(mode, *sides, seed)
    if transparent:
        picture.info["transparency"] = transparent
    picture.getexif()[0x0112] = orientation
    whole = rgb_at_once(ImageOps.exif_transpose(picture))
    found = fit(picture, prepared, turn=turn_by(picture.getexif()))
    np.testing.assert_array_equal(found, fit(whole, prepared))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("1", "PNG", {}),
        ("L", "PNG", {"transparency": 7}),
        ("P", "PNG", {"transparency": 0}),
        ("I;16", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("CMYK", "JPEG", {}),
    ],
    ids=str,
)
def test_no_more_memory_is_taken_than_the_decoded_picture_has(tmp_path, mode, form, options, orientation):
    """A process decodes nine megapixels with room for these and 16 MiB; a transparent one at once took 216 MB."""
    paths = [tmp_path / "small", tmp_path / "large"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path, side in zip(paths, (300, 3000), strict=True):
        Image.new(mode, (side, side)).save(path, form, exif=exif, **options)
    room = 3000 * 3000 * MODES[mode] + (16 << 20)
    ended = subprocess.run(
        [sys.executable, "-c", BOUNDED, *map(str, paths), str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
