"""A JPEG stripped to what its pixels are made of, for a decoder that is not to see what a stranger wrote beside it.

    SOI ─ tables ─ one frame ─ tables ─ scan ─ (tables ─ scan)… ─ EOI

Whatever else a file may hold is left out: comments, EXIF, thumbnails, what comes after the end. A file that is built
in any other way is none of ours to judge: the host's decoder takes it, or says what is wrong with it. Two parsers that
read a header differently are what a crafted file plays off against each other; of this there is one reading only.

Markers as in ITU-T T.81, table B.1.
"""

import re
from collections.abc import Iterator
from typing import Final

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS: Final = 0xDA
_DRI: Final = 0xDD
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # Huffman-coded: baseline, extended, progressive
_TABLES: Final = frozenset({0xC4, 0xDB, _DRI})
_COLOURS: Final = frozenset({0xE0, 0xEE})  # JFIF and Adobe say what the components are
_LEFT_OUT: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # what applications and people have to say
_KNOWN: Final = _FRAMES | _TABLES | _COLOURS | _LEFT_OUT | {_SOS}
_RESTARTS: Final = range(0xD0, 0xD8)
# Within a scan a zero follows every byte of ones that is no marker.
_MARKER: Final = re.compile(rb"\xff[^\x00]")


class _UnusualError(Exception):
    """Not what nearly every encoder writes."""


def plain_jpeg(data: bytes) -> bytes | None:
    """Return the file without whatever its pixels do not need; None where it is built in an unusual way, or damaged."""
    kept, frames = [_SOI], 0
    try:
        for kind, segment in _segments(data):
            if kind in _FRAMES:
                frames += 1
            elif kind == _SOS and not frames:
                return None
            if kind not in _LEFT_OUT:
                kept.append(segment)
    except _UnusualError:
        return None
    return b"".join([*kept, _EOI]) if frames == 1 else None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield every segment between beginning and end, with its marker's second byte; a scan with what it codes.

    Raises:
        _UnusualError: an unknown marker, one that has no length, or no end.
    """
    if not data.startswith(_SOI):
        raise _UnusualError
    at, restarts = len(_SOI), 0
    while data[at : at + 2] != _EOI:
        kind, end = _header(data, at)
        if kind == _DRI:
            restarts = int.from_bytes(data[at + 4 : end])
        elif kind == _SOS:
            end = _end_of_scan(data, end, restarts)
        yield kind, data[at:end]
        at = end


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return the second byte of the marker that lies somewhere, and where its segment ends."""
    if data[at : at + 1] != b"\xff" or len(data) < at + 4:
        raise _UnusualError
    kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
    if kind not in _KNOWN or not at + 4 <= end <= len(data):
        raise _UnusualError
    return kind, end


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
