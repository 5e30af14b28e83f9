"""JPEGs read by nvImageCodec, on the host in place of a GPU: the same code but for where the memory lies."""

import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from regard_models import Preprocessing
from regard_models.samples import sample_photographs
from regard_server import gpu_jpeg
from regard_server.cli import serve
from regard_server.errors import ImageTooLargeError, UndecodableImageError
from regard_server.gpu_jpeg import GpuJpegs, GpuUnavailableError, decoding_device
from regard_server.images import ImageLimits, decode
from regard_server.settings import Settings

LIMITS = ImageLimits(1 << 26, 1 << 26)
ORIENTATION = 0x0112
PREPARED = [
    Preprocessing(160, 160, 160),
    Preprocessing(224, 224, 256, "bicubic"),
    Preprocessing(64, 128, 150),
]


@pytest.fixture(scope="module")
def jpegs():
    return GpuJpegs("cpu")


@pytest.fixture
def seen(jpegs):
    """Read JPEGs there, and note for each whether it was left to the host."""

    def read(data, opened, preprocessing):
        pixels = jpegs(data, opened, preprocessing)
        read.left.append(pixels is None)
        return pixels

    read.left = []
    return read


def jpeg(picture, **options):
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def photograph(size=(500, 333), number=0):
    return Image.open(sample_photographs()[number]).convert("RGB").resize(size)


def difference(first, second):
    return np.abs(first.astype(int) - second).max()


@pytest.mark.parametrize("prepared", PREPARED, ids=lambda each: f"{each.height}x{each.width}")
@pytest.mark.parametrize("size", [(500, 333), (160, 160), (97, 240), (1, 1), (3, 40)], ids=str)
def test_pixels_are_those_of_the_host_to_the_rounding(seen, prepared, size):
    """Whatever is resized and cut, no pixel differs by more than two steps of 255 from Pillow's of the same picture.

    A cubic overshoots at edges: Pillow cuts that off after each axis, torch at the end.
    """
    data = jpeg(photograph(size), quality=90)
    with Image.open(io.BytesIO(data)) as opened:
        whole = io.BytesIO()
        opened.save(whole, "PNG")
    found, expected = decode(data, LIMITS, prepared, seen), decode(whole.getvalue(), LIMITS, prepared)
    assert difference(found, expected) <= (10 if prepared.interpolation == "bicubic" else 2)
    assert np.abs(found.astype(int) - expected).mean() < 0.5
    assert seen.left == [False]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(seen, orientation):
    """Each of EXIF's eight orientations comes out as the host turns it."""
    data = jpeg(photograph((120, 80)), exif=exif(orientation), quality=95, subsampling=0)
    prepared = Preprocessing(64, 64, 64)
    assert difference(decode(data, LIMITS, prepared, seen), decode(data, LIMITS, prepared)) <= 4
    assert seen.left == [False]


def exif(orientation):
    fields = Image.Exif()
    fields[ORIENTATION] = orientation
    return fields


@pytest.mark.parametrize("options", [{"progressive": True}, {"mode": "L"}], ids=str)
def test_progressive_and_grey_files_are_read_there(seen, options):
    """Both are JPEGs like others."""
    picture = photograph().convert(options.pop("mode", "RGB"))
    data, prepared = jpeg(picture, quality=95, **options), Preprocessing(160, 160, 160)
    found, expected = decode(data, LIMITS, prepared, seen), decode(data, LIMITS, prepared)
    assert difference(found, expected) <= 4
    assert seen.left == [False]


def test_other_formats_and_colours_are_left_to_the_host(seen):
    """A PNG and a JPEG in CMYK give what they give without it."""
    file = io.BytesIO()
    photograph().save(file, "PNG")
    for data in (file.getvalue(), jpeg(photograph().convert("CMYK"))):
        prepared = Preprocessing(160, 160, 160)
        np.testing.assert_array_equal(decode(data, LIMITS, prepared, seen), decode(data, LIMITS, prepared))
    assert seen.left == [True, True]


@pytest.mark.parametrize("size", [(4100, 4100), (2, 4000)], ids=["large", "narrow"])
def test_what_would_take_too_much_of_the_gpus_memory_is_left_to_the_host(seen, size):
    """Neither a picture of more than 16 million pixels, nor one that would have as many when resized, is read there."""
    data, prepared = jpeg(Image.new("RGB", size, "teal")), Preprocessing(160, 160, 160)
    np.testing.assert_array_equal(decode(data, LIMITS, prepared, seen), decode(data, LIMITS, prepared))
    assert seen.left == [True]


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_damaged_files_are_refused_by_the_host(seen, keep, capfd):
    """What cannot be read there goes on to the decoder that says what is wrong, and nothing is printed."""
    data = jpeg(photograph(), quality=90)
    with pytest.raises(UndecodableImageError, match="is the file complete"):
        decode(data[: int(keep * len(data))], LIMITS, Preprocessing(160, 160, 160), seen)
    assert seen.left == [True]
    assert "could not" not in capfd.readouterr().err.lower()


def test_limits_are_looked_at_before_anything_is_decoded(seen):
    """A picture of too many pixels never gets there."""
    with pytest.raises(ImageTooLargeError):
        decode(jpeg(photograph()), ImageLimits(1 << 26, 100), Preprocessing(160, 160, 160), seen)
    assert seen.left == []


def test_many_threads_read_at_a_time(jpegs):
    """Eight threads that share the reader get the same pixels as one."""
    prepared = Preprocessing(160, 160, 160)
    files = [jpeg(photograph(number=number % 12), quality=80) for number in range(24)]
    read = partial(decode, limits=LIMITS, preprocessing=prepared, jpegs=jpegs)
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(read, files))
    for data, pixels in zip(files, together, strict=True):
        np.testing.assert_array_equal(pixels, read(data))


def test_a_gpu_that_is_not_there_is_told_at_start(capsys):
    """Asked for a GPU's decoder without a GPU, the server says so and does not start."""
    if torch.cuda.is_available():
        assert serve(["--check", "--jpeg-decoder", "gpu"]) == 0
        return
    assert serve(["--check", "--jpeg-decoder", "gpu"]) == 2
    assert "jpeg_decoder: torch finds no CUDA device" in capsys.readouterr().err


def test_a_library_that_is_not_there_is_named(monkeypatch):
    """Without nvImageCodec the message says what to install."""
    monkeypatch.setattr(gpu_jpeg, "LIBRARY", "nvidia_is.not_here")
    with pytest.raises(GpuUnavailableError, match=r"regard\[gpu-jpeg\]"):
        GpuJpegs("cpu")


@pytest.mark.parametrize(
    ("devices", "expected"),
    [("auto", "cuda"), ("cpu", "cuda"), ("cpu,cuda:1,cuda:0", "cuda:1"), ("cuda", "cuda")],
)
def test_the_first_of_the_servers_gpus_decodes(devices, expected):
    """The first that is named, or the first that there is."""
    assert decoding_device(Settings(device=devices)) == expected
