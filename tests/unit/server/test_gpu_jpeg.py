"""JPEGs read by nvImageCodec, on the host in place of a GPU: the same code but for where the memory lies."""

import io
import logging
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from regard_models import Preprocessing
from regard_models.samples import sample_photographs
from regard_server import gpu_jpeg
from regard_server.cli import serve
from regard_server.errors import ImageTooLargeError, UndecodableImageError
from regard_server.gpu_jpeg import GpuUnavailableError, decoding_device, open_gpu_jpegs
from regard_server.images import ImageLimits, decode
from regard_server.settings import Settings

LIMITS = ImageLimits(1 << 26, 1 << 26)
LOGGER = logging.getLogger("test")
SMALL = Preprocessing(160, 160, 160)
ORIENTATION = 0x0112
PREPARED = [
    Preprocessing(160, 160, 160),
    Preprocessing(224, 224, 256, "bicubic"),
    Preprocessing(64, 128, 150),
]


@pytest.fixture(scope="module")
def jpegs():
    return open_gpu_jpegs("cpu", LOGGER)


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


@pytest.mark.parametrize("orientations", [(1, 6), (6, 1), (6, 3)], ids=str)
def test_of_two_orientations_the_host_s_counts(seen, orientations):
    """The library's own parser takes the last, and overruns its memory where both turn the picture."""
    pieces = [b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in map(exif, orientations)]
    data = jpeg(photograph((120, 80)), quality=95, subsampling=0)
    data = data[:2] + b"".join(pieces) + data[2:]
    prepared = Preprocessing(64, 64, 64)
    for _ in range(20):
        assert difference(decode(data, LIMITS, prepared, seen), decode(data, LIMITS, prepared)) <= 4
    assert not any(seen.left)


def exif(orientation):
    fields = Image.Exif()
    fields[ORIENTATION] = orientation
    return fields.tobytes()


def test_a_size_that_only_the_library_sees_is_not_believed(seen):
    """A file whose header is another one to a parser that reads on in a comment goes to the host."""
    data = jpeg(photograph((200, 150)))
    frame = data.index(b"\xff\xc0")
    other = bytearray(data[frame : frame + 19])
    other[5:9] = struct.pack(">HH", 3000, 200)
    start = bytearray(b"\xff\xd8\xff\xd0" + data[2:20])
    target = 4 + 0xFFE0  # where a parser lands that gives the second marker a length
    while target - len(start) > 60_000:
        start += struct.pack(">HH", 0xFFFE, 30_002) + bytes(30_000)
    start += struct.pack(">HH", 0xFFFE, target - len(start) - 2 + len(other))
    start += bytes(target - len(start)) + other
    crafted = bytes(start) + data[20:]
    np.testing.assert_array_equal(decode(crafted, LIMITS, SMALL, seen), decode(crafted, LIMITS, SMALL))
    assert seen.left == [True]


@pytest.mark.parametrize("options", [{"progressive": True}, {"mode": "L"}], ids=str)
def test_progressive_and_grey_files_are_read_there(seen, options):
    """Both are JPEGs like others."""
    picture = photograph().convert(options.pop("mode", "RGB"))
    data = jpeg(picture, quality=95, **options)
    found, expected = decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL)
    assert difference(found, expected) <= 4
    assert seen.left == [False]


def test_other_formats_and_colours_are_left_to_the_host(seen):
    """A PNG and a JPEG in CMYK give what they give without it."""
    file = io.BytesIO()
    photograph().save(file, "PNG")
    for data in (file.getvalue(), jpeg(photograph().convert("CMYK"))):
        np.testing.assert_array_equal(decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL))
    assert seen.left == [True, True]


def test_of_several_pictures_in_a_file_the_first_is_read_there(seen):
    """A camera's file of two views is a JPEG with more behind it."""
    file = io.BytesIO()
    photograph().save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (500, 333))], quality=95)
    data = file.getvalue()
    assert difference(decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL)) <= 4
    assert seen.left == [False]


@pytest.mark.parametrize(
    ("size", "left"), [((4096, 4096), False), ((4096, 4097), True), ((2, 400), True)], ids=str
)
def test_what_would_take_too_much_of_the_gpus_memory_is_left_to_the_host(seen, size, left):
    """Neither a picture of more than 16 million pixels, nor one that would have over 4 when resized, is read there."""
    data = jpeg(Image.new("RGB", size, "teal"))
    assert difference(decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL)) <= 1
    assert seen.left == [left]


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_files_without_an_end_are_refused_by_the_host(seen, keep):
    """What is not whole goes on to the decoder that says what is wrong."""
    data = jpeg(photograph(), quality=90)
    with pytest.raises(UndecodableImageError, match="is the file complete"):
        decode(data[: int(keep * len(data))], LIMITS, SMALL, seen)
    assert seen.left == [True]


def test_what_the_library_cannot_read_goes_to_the_host(seen, capfd):
    """A scan of components that the frame does not have is well built, and is read by nobody; the library is silent."""
    data = bytearray(jpeg(photograph(), quality=90))
    scan = data.index(b"\xff\xda")
    data[scan + 5] = 77
    with pytest.raises(UndecodableImageError):
        decode(bytes(data), LIMITS, SMALL, seen)
    assert seen.left == [True]
    assert "nvimgcodec" not in capfd.readouterr().err


def test_a_size_that_is_not_the_files_is_not_believed(jpegs, seen, monkeypatch):
    """Where the library's parser sees another size than Pillow's, nothing is decoded into it."""

    class Code:
        width, height = 500, 334

    monkeypatch.setattr(
        jpegs, "_library", SimpleNamespace(**vars(jpegs._library) | {"CodeStream": lambda _: Code})
    )
    data = jpeg(photograph())
    np.testing.assert_array_equal(decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL))
    assert seen.left == [True]


def test_a_file_that_lacks_its_middle_may_be_read_as_if_it_were_whole(seen):
    """Known, and said where the setting is explained: the host refuses what has its end and lacks rows before it."""
    whole = jpeg(photograph(), quality=90)
    data = whole[: len(whole) // 2] + whole[-2:]
    with pytest.raises(UndecodableImageError):
        decode(data, LIMITS, SMALL)
    assert decode(data, LIMITS, SMALL, seen).shape == (160, 160, 3)


def test_a_device_that_fails_leaves_pictures_to_the_host_and_is_told_of_once(seen, monkeypatch, caplog):
    """Out of memory, a picture is read on the host; the log has a line, not one for every picture."""

    def fail(*_):
        raise torch.OutOfMemoryError("there is none left")

    monkeypatch.setattr(gpu_jpeg, "_fitted", fail)
    for _ in range(2):
        data = jpeg(photograph())
        np.testing.assert_array_equal(decode(data, LIMITS, SMALL, seen), decode(data, LIMITS, SMALL))
    assert seen.left == [True, True]
    assert [record.message.count("there is none left") for record in caplog.records] == [1]


def test_limits_are_looked_at_before_anything_is_decoded(seen):
    """A picture of too many pixels never gets there, nor one of more scans than it can need."""
    with pytest.raises(ImageTooLargeError):
        decode(jpeg(photograph()), ImageLimits(1 << 26, 100), SMALL, seen)
    with pytest.raises(UndecodableImageError, match="101 scans"):
        decode(jpeg(photograph((8, 8)))[:-2] + 100 * b"\xff\xda", LIMITS, SMALL, seen)
    assert seen.left == []


def test_many_threads_read_at_a_time(jpegs):
    """Eight threads that share the reader get the same pixels as one."""
    files = [jpeg(photograph(number=number % 12), quality=80) for number in range(24)]
    read = partial(decode, limits=LIMITS, preprocessing=SMALL, jpeg_reader=jpegs)
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
        open_gpu_jpegs("cpu", LOGGER)


def test_a_device_that_reads_nothing_is_no_device(monkeypatch):
    """One picture is read before the server starts; where that fails, nothing else would do better."""
    monkeypatch.setattr(gpu_jpeg, "_fitted", lambda *_: None)
    with pytest.raises(GpuUnavailableError, match="reads no JPEG on cpu"):
        open_gpu_jpegs("cpu", LOGGER)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [("auto", "cuda"), ("cpu", "cuda"), ("cpu,cuda:1,cuda:0", "cuda:1"), ("cuda", "cuda")],
)
def test_the_first_of_the_servers_gpus_decodes(devices, expected):
    """The first that is named, or the first that there is."""
    assert decoding_device(Settings(device=devices)) == expected
