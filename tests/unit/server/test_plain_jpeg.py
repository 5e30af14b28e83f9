"""What is left of a JPEG for a decoder that is to see nothing else."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regard_models.samples import sample_photographs
from regard_server.plain_jpeg import plain_jpeg

APPLICATION, COMMENT = 0xE1, 0xFE


def jpeg(mode="RGB", **options):
    file = io.BytesIO()
    Image.open(sample_photographs()[0]).convert(mode).resize((200, 150)).save(file, "JPEG", **options)
    return file.getvalue()


def segment(kind, content):
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def behind_start(data, *segments):
    return data[:2] + b"".join(segments) + data[2:]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"mode": "L"},
        {"restart_marker_rows": 1},
        {"restart_marker_rows": 1, "progressive": True},
        {"subsampling": 0, "optimize": True},
        {"comment": b"a word"},
        {"exif": b"Exif\0\0" + bytes(200), "icc_profile": bytes(3000)},
    ],
    ids=str,
)
def test_pixels_are_kept_and_words_are_not(options):
    """Any of Pillow's JPEGs has the same pixels without its comments and application data, and with nothing behind."""
    data = jpeg(**options)
    plain = plain_jpeg(data + b"and more")
    assert plain is not None
    np.testing.assert_array_equal(pixels(plain), pixels(data))
    assert not any(word in plain for word in (b"a word", b"Exif", b"ICC_PROFILE", b"and more"))
    assert plain_jpeg(plain) == plain


def test_a_header_that_can_be_read_in_two_ways_is_refused():
    """A marker without a length, which some parsers give one, would let them land on another frame in a comment."""
    data = jpeg()
    other_frame = segment(0xC0, bytes(15))
    assert plain_jpeg(behind_start(data, b"\xff\xd0", segment(COMMENT, other_frame))) is None
    hidden = plain_jpeg(behind_start(data, segment(COMMENT, other_frame), segment(APPLICATION, other_frame)))
    assert hidden == plain_jpeg(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-2],
        lambda data: data[:100],
        lambda data: data[2:],
        lambda data: behind_start(data, b"\xff"),
        lambda data: behind_start(data, b"\x00"),
        lambda data: behind_start(data, segment(0xC0, bytes(15))),
        lambda data: behind_start(data, segment(0xC3, bytes(15))),
        lambda data: behind_start(data, b"\xff\xe1\x00\x01"),
        lambda data: behind_start(data, b"\xff\xe1\xff\xff"),
        lambda data: data.replace(b"\xff\xc0", b"\xff\xc9"),
        lambda data: data[:-300] + b"\xff\xd0" + data[-300:],
        lambda data: data[:-300] + b"\xff\xc0" + data[-300:],
    ],
    ids=[
        "nothing",
        "no end",
        "no scan",
        "no beginning",
        "a byte of ones",
        "a byte of zeros",
        "two frames",
        "a lossless frame",
        "a segment without its length",
        "a segment beyond the end",
        "arithmetic coding",
        "a restart where none is due",
        "a frame within a scan",
    ],
)
def test_what_is_unusual_or_damaged_is_refused(damage):
    """It is left to a decoder that can say what is wrong."""
    assert plain_jpeg(damage(jpeg())) is None


def test_restarts_out_of_order_are_refused():
    """Restarts count from 0 to 7 and begin again."""
    data = jpeg(restart_marker_rows=1)
    assert plain_jpeg(data.replace(b"\xff\xd1", b"\xff\xd2", 1)) is None


def test_a_scan_before_its_frame_is_refused():
    """Without a frame nobody knows what is in it."""
    data = jpeg()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4])
    moved = data[:frame] + data[frame + length : -2] + data[frame : frame + length] + data[-2:]
    assert scan > frame
    assert plain_jpeg(moved) is None


@given(st.data())
def test_whatever_comes_it_ends_with_a_jpeg_or_nothing(data):
    """Of mutated files what is let through has one frame, one beginning, and the end at its end."""
    file = bytearray(jpeg())
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=5)):
        file[at] = data.draw(st.sampled_from([0, 0xC0, 0xD0, 0xD8, 0xD9, 0xDA, 0xE0, 0xFF]))
    plain = plain_jpeg(bytes(file))
    assert plain is None or (plain.startswith(b"\xff\xd8") and plain.endswith(b"\xff\xd9"))
    assert plain is None or plain_jpeg(plain) == plain
