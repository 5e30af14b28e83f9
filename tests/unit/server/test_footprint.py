"""Footprints: what is said to be taken for a picture is no less than what it takes, and not many times as much."""

import io
import json
import struct
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


class Bits:
    """Bits as a lossless WebP has them, the lowest first."""

    def __init__(self):
        self.value = self.count = 0

    def put(self, value, count):
        self.value |= value << self.count
        self.count += count

    def put_backwards(self, value, count):
        """As a Huffman code of so many bits is written."""
        self.put(int(f"{value:0{count}b}"[::-1], 2), count)


def webp_of_many_tables(side):
    """Return a black WebP with a set of five Huffman codes for every 4×4 pixels, of one symbol each.

    https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification
    """
    single = (0b0001, 4)  # a simple code, of one symbol, which takes a bit: 0
    sets = (-(-side // 4)) ** 2
    head = Bits()
    for value, count in [(0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 1), (0, 3)]:
        head.put(value, count)
    for value, count in [(0, 1), (0, 1), (1, 1), (0, 3), (0, 1)]:  # an image of sets, a pixel for 4×4
        head.put(value, count)
    lengths = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8]  # in the order in which the codes of lengths are told
    for symbols in (280, 256):  # 256 symbols of eight bits each, to number the sets by
        head.put(0, 1)
        head.put(len(lengths) - 4, 4)
        for length in lengths:
            head.put(length in (0, 8), 3)
        head.put(0, 1)
        head.put((1 << 256) - 1, symbols)
    for _ in range(3):
        head.put(*single)
    body = Bits()
    numbers = bytearray()
    for number in range(sets):
        one = Bits()
        one.put_backwards(number & 255, 8)
        one.put_backwards(number >> 8, 8)
        numbers += one.value.to_bytes(2, "little")
    five = Bits()
    for _ in range(5):
        five.put(*single)
    pair = five.value | five.value << five.count  # of two sets, five bytes
    codes = pair.to_bytes(5, "little") * (sets // 2)
    body.put(int.from_bytes(numbers + codes, "little"), 8 * (len(numbers) + len(codes)))
    head.put(body.value, body.count)
    data = head.value.to_bytes(head.count // 8 + 9, "little")
    data += bytes(len(data) % 2)
    chunk = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


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
    (folder / "webp of many tables").write_bytes(webp_of_many_tables(1024))
    return folder


@pytest.fixture(scope="module")
def peaks(files):
    """Return what decoding each took in a process of its own, in bytes."""
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, str(files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("name", [*FILES, "webp of many tables"])
def test_no_picture_takes_more_than_is_said(files, peaks, name):
    """The peak is measured; the file itself was there before."""
    data = (files / name).read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        said = jpeg_footprint(data, opened, 256) or footprint(data, opened)
    said -= len(data)
    most = 8 if name == "webp lossless" else 4  # which might have as many tables as the other one
    assert said / most < peaks[name] <= said


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
