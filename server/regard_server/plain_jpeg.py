"""A JPEG stripped to what its pixels are made of, for a decoder that is not to see what a stranger wrote beside it.

    SOI ─ JFIF ─ tables ─ one frame ─ tables ─ scan ─ (tables ─ scan)… ─ EOI

Whatever else a file may hold is left out: comments, EXIF, thumbnails, what comes after the end. What is kept has the
length that its content says, and its colours are those of JFIF. A file that is built in any other way is none of ours
to judge: the host's decoder takes it, or says what is wrong with it. Two parsers that read a header differently are
what a crafted file plays off against each other; of this there is one reading only.

Markers and tables as in ITU-T T.81, annex B; the JFIF header as in T.871.
"""

import re
from collections.abc import Iterator
from typing import Final

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_DHT, _SOS, _DQT, _DRI, _ADOBE = 0xC4, 0xDA, 0xDB, 0xDD, 0xEE
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # Huffman-coded: baseline, extended, progressive
_KEPT: Final = _FRAMES | {_DHT, _SOS, _DQT, _DRI}
_LEFT_OUT: Final = frozenset({*range(0xE0, 0xF0), 0xFE})  # what applications and people have to say
_RESTARTS: Final = range(0xD0, 0xD8)
# Within a scan a zero follows every byte of ones that is no marker.
_MARKER: Final = re.compile(rb"\xff[^\x00]")


class _UnusualError(Exception):
    """Not what nearly every encoder writes."""


def plain_jpeg(data: bytes) -> bytes | None:
    """Return the file with nothing but what its pixels need; None where it is built in an unusual way, or damaged."""
    kept, frames, scans = [_SOI, _JFIF], 0, 0
    try:
        for kind, segment in _segments(data):
            frames += kind in _FRAMES
            scans += kind == _SOS and frames == 1
            if kind in _KEPT:
                kept.append(segment)
    except _UnusualError:
        return None
    whole = frames == 1 and scans > 0
    return b"".join([*kept, _EOI]) if whole else None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield every segment up to the end, with its marker's second byte; a scan with what it codes.

    Raises:
        _UnusualError: an unknown marker, a content that does not fit its length, or no end.
    """
    if not data.startswith(_SOI):
        raise _UnusualError
    at, restarts = len(_SOI), 0
    while data[at : at + 2] != _EOI:
        kind, end = _header(data, at)
        content = data[at + 4 : end]
        _check(kind, content)
        if kind == _DRI:
            restarts = int.from_bytes(content)
        elif kind == _SOS:
            end = _end_of_scan(data, end, restarts)
        yield kind, data[at:end]
        at = end


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return the second byte of the marker that lies somewhere, and where its segment ends."""
    if data[at : at + 1] != b"\xff" or len(data) < at + 4:
        raise _UnusualError
    kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
    if kind not in _KEPT | _LEFT_OUT or not at + 4 <= end <= len(data):
        raise _UnusualError
    return kind, end


def _check(kind: int, content: bytes) -> None:
    """Refuse a segment that is not as long as its content says, or whose colours are not JFIF's."""
    if kind in _FRAMES:
        # 8 bits, height, width, and one component or three, which are not called R, G, B.
        fits = len(content) in {9, 15} and content[0] == 8 and len(content) == 6 + 3 * content[5]  # noqa: PLR2004
        fits = fits and content[6::3] != b"RGB"
    elif kind == _SOS:
        fits = len(content) > 0 and len(content) == 4 + 2 * content[0]
    elif kind == _DRI:
        fits = len(content) == 2  # noqa: PLR2004 - a number of 16 bits
    elif kind == _ADOBE and content.startswith(b"Adobe"):
        fits = content[11:12] == b"\x01"  # luma and chroma; with 0 they would be red, green and blue
    else:
        fits = _tables_end(kind, content) == len(content)
    if not fits:
        raise _UnusualError


def _tables_end(kind: int, content: bytes) -> int:
    """Return where the last of the tables in a segment ends; of other segments, where they end."""
    at = 0 if kind in {_DQT, _DHT} else len(content)
    while at < len(content):
        if kind == _DQT:
            at += 129 if content[at] >> 4 else 65  # 64 numbers of 16 or 8 bits
        else:
            at += 17 + sum(content[at + 1 : at + 17])  # the codes of each length, counted, and what they mean
    return at


def _end_of_scan(data: bytes, begin: int, restarts: int) -> int:
    """Return where the marker behind a scan lies.

    Args:
        data: the file.
        begin: where the scan's header ends.
        restarts: after how many units one is due; 0: never.

    Raises:
        _UnusualError: there is none, or restarts are not in order.
    """
    expected = 0
    for found in _MARKER.finditer(data, begin):
        kind = data[found.start() + 1]
        if kind not in _RESTARTS:
            return found.start()
        if not restarts or kind != _RESTARTS[expected]:
            break
        expected = (expected + 1) % len(_RESTARTS)
    raise _UnusualError
