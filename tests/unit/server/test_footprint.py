"""Footprints: what is said to be taken for a picture is no less than what it takes, and not many times as much."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from regard_server.footprint import footprint, jpeg_footprint
from regard_server.jpeg import read_jpeg

PEAKS = """
import json, os, re, sys
from pathlib import Path
from regard_models import Preprocessing
from regard_server.images import ImageLimits, decode

def taken(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

def peak(path):
    data = path.read_bytes()
    read, write = os.pipe()
    if not (child := os.fork()):
        before = taken("VmRSS")
        decode(data, limits, Preprocessing())
        os.write(write, str(taken("VmHWM") - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(read, 100))

limits = ImageLimits(1 << 26, 1 << 26)
folder = Path(sys.argv[1])
decode((folder / "small").read_bytes(), limits, Preprocessing())
print(json.dumps({path.name: peak(path) for path in folder.iterdir()}))
"""
COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (25, 25, 4), np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6
TURNED_BY_XMP = {700: b'<rdf:Description tiff:Orientation="6"/>'}
ONE_STRIP = {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30}
SQUARE, WIDE, LINE, COLUMN = (2000, 2000), (10_000, 400), (2_000_000, 1), (1, 2_000_000)
FILES = {
    "png": ("RGBA", SQUARE, "PNG", {"compress_level": 1}),
    "png line": ("RGBA", LINE, "PNG", {"compress_level": 1}),
    "png column": ("L", COLUMN, "PNG", {"compress_level": 1}),
    "png palette": ("P", SQUARE, "PNG", {"compress_level": 1}),
    "bmp": ("RGB", SQUARE, "BMP", {}),
    "gif": ("P", SQUARE, "GIF", {"transparency": 0, "disposal": 2}),
    "webp": ("RGB", SQUARE, "WEBP", {"method": 0}),
    "webp transparent": ("RGBA", SQUARE, "WEBP", {"method": 0}),
    "webp lossless": ("RGBA", SQUARE, "WEBP", {"method": 0, "lossless": True, "quality": 0}),
    "jpeg": ("RGB", WIDE, "JPEG", {}),
    "jpeg progressive": ("RGB", SQUARE, "JPEG", {"progressive": True}),
    "jpeg progressive whole": ("RGB", WIDE, "JPEG", {"progressive": True, "subsampling": 0}),
    "jpeg cmyk": ("CMYK", SQUARE, "JPEG", {}),
    "jpeg cmyk progressive": ("CMYK", SQUARE, "JPEG", {"progressive": True}),
    "tiff": ("RGB", SQUARE, "TIFF", {"compression": "tiff_lzw"}),
    "tiff strip": ("RGBA", SQUARE, "TIFF", ONE_STRIP),
    "tiff strip turned": ("CMYK", SQUARE, "TIFF", {**ONE_STRIP, "exif": TURNED}),
    "tiff turned by xmp": (
        "RGB",
        SQUARE,
        "TIFF",
        {"compression": "tiff_adobe_deflate", "tiffinfo": TURNED_BY_XMP},
    ),
    "tiff raw": ("RGB", SQUARE, "TIFF", {"exif": TURNED}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of files, each large."""
    folder = tmp_path_factory.mktemp("pictures")
    COLOURS.save(folder / "small", "PNG")
    for name, (mode, size, form, options) in FILES.items():
        picture = COLOURS.resize(size, Image.Resampling.NEAREST)
        if mode == "P":
            picture = picture.getchannel(0)
            picture.putpalette(bytes(range(256)) * 3)
        elif mode == "CMYK":
            picture = Image.frombytes("CMYK", size, picture.tobytes())
        elif mode != "RGBA":
            picture = picture.convert(mode)
        picture.save(folder / name, form, **options)
    return folder


@pytest.fixture(scope="module")
def peaks(files):
    """Return what decoding each took in a process of its own, in bytes."""
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, str(files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("name", FILES)
def test_no_picture_takes_more_than_is_said(files, peaks, name):
    """The peak is measured; the file itself was there before."""
    data = (files / name).read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        said = jpeg_footprint(data, opened, 256) or footprint(data, opened)
    said -= len(data)
    assert said / 4 < peaks[name] <= said


@pytest.mark.parametrize(
    "size", [(511, 900), (513, 900), (1023, 1025), (2000, 1500), (6000, 4000), (4097, 600)]
)
def test_a_jpeg_is_said_to_be_reduced_no_more_than_it_is(size):
    """The pixels that libjpeg gives are as many as were counted, or a step fewer."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG")
    data = file.getvalue()
    with Image.open(file) as opened:
        reduced = read_jpeg(data, opened, 256).picture
        said = jpeg_footprint(data, opened, 256) - len(data) - 10_000_000
    assert reduced.width * reduced.height * 7 <= said < reduced.width * reduced.height * 7 * 4
