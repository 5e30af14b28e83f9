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

FRAME, CODES, SCAN, TABLES, RESTARTS = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD
JFIF, APPLICATION, ADOBE, COMMENT = 0xE0, 0xE1, 0xEE, 0xFE


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


@pytest.mark.parametrize("kind", [JFIF, APPLICATION, ADOBE, COMMENT], ids=hex)
def test_what_is_hidden_in_a_header_is_left_out(kind):
    """Another frame in a comment, in an application's data or beside a JFIF thumbnail is not there any more."""
    data = jpeg()
    other_frame = segment(FRAME, bytes(15))
    for hiding in (other_frame, b"JFXX\0\x10" + other_frame, b"JFIF\0\1\1\0\0\1\0\1\2\2" + other_frame):
        assert plain_jpeg(behind_start(data, segment(kind, hiding))) == plain_jpeg(data)


def test_a_header_that_can_be_read_in_two_ways_is_refused():
    """A marker without a length, which some parsers give one, would let them land on another frame in a comment."""
    assert plain_jpeg(behind_start(jpeg(), b"\xff\xd0", segment(COMMENT, bytes(15)))) is None


def test_colours_are_those_of_luma_and_chroma():
    """Adobe's word for luma and chroma is what JFIF says anyway; red, green and blue as they are go to the host."""
    data = jpeg()
    luma, colours = (segment(ADOBE, b"Adobe" + bytes(6) + bytes([transform])) for transform in (1, 0))
    assert plain_jpeg(behind_start(data, luma)) == plain_jpeg(data)
    assert plain_jpeg(behind_start(data, colours)) is None
    assert plain_jpeg(jpeg(keep_rgb=True)) is None


def test_extended_files_are_kept():
    """A baseline file is an extended one, too."""
    data = jpeg().replace(b"\xff\xc0", b"\xff\xc1")
    np.testing.assert_array_equal(pixels(plain_jpeg(data)), pixels(data))


def test_the_last_word_on_restarts_counts():
    """Of two segments that say when a restart is due, the later holds."""
    data = jpeg(restart_marker_rows=1)
    never = segment(RESTARTS, b"\0\0")
    assert plain_jpeg(behind_start(data, never)) is not None
    scan = data.index(b"\xff\xda")
    assert plain_jpeg(data[:scan] + never + data[scan:]) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-2],
        lambda data: data[:100],
        lambda data: data[2:],
        lambda data: behind_start(data, b"\xff"),
        lambda data: behind_start(data, b"\x00"),
        lambda data: behind_start(data, segment(FRAME, bytes(15))),
        lambda data: behind_start(data, segment(0xC3, bytes(15))),
        lambda data: behind_start(data, b"\xff\xe1\x00\x01"),
        lambda data: behind_start(data, b"\xff\xe1\x00\x00"),
        lambda data: behind_start(data, segment(RESTARTS, bytes(8))),
        lambda data: behind_start(data, segment(RESTARTS, b"")),
        lambda data: behind_start(data, segment(TABLES, bytes(66))),
        lambda data: behind_start(data, segment(CODES, bytes(16))),
        lambda data: behind_start(data, segment(SCAN, b"")),
        lambda data: data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        lambda data: data.replace(b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x10"),
        lambda data: data[: data.index(b"\xff\xda")] + data[-2:],
        lambda data: data[: data.index(b"\xff\xda")] + data[-2:] + data[2:],
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
        "a segment of no length",
        "restarts of eight bytes",
        "restarts of none",
        "tables that do not end with their segment",
        "codes that do not end with their segment",
        "a scan's header without a number",
        "12 bits",
        "a frame that is a byte short",
        "no scan before the end",
        "another file behind the end",
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
