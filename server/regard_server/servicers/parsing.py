"""Bytes into requests, without letting a small message become a large object.

An empty image is two bytes on the wire and tens of bytes in memory: 60 MB of them become 1.4 GB before anybody could
count them. So the fields are counted while they are bytes, and what is beyond the limit is never parsed.

    tag length image │ tag length image │ … │ tag length request_id
    └── kept, up to one more than allowed ┘ └── kept
"""

from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError

from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import MalformedRequestError

# Fields beyond the images allowed that are walked over at most; gRPC refuses a request of more as no message at all.
_MOST_FIELDS = 1 << 16
_IMAGES = pb.ExtractRequest.IMAGES_FIELD_NUMBER
# What is no longer than this becomes 24 MB at most, for a moment, whatever it holds: not worth walking over.
_SHORT_BYTES = 1 << 20


def bounded_parser(max_images: int, short_bytes: int = _SHORT_BYTES) -> Callable[[bytes], pb.ExtractRequest]:
    """Return what parses `ExtractRequest`, giving at most one image more than `max_images`, but for short messages.

    The parser raises `MalformedRequestError` for what is no such message, or has too many fields.
    """

    def parse(data: bytes) -> pb.ExtractRequest:
        try:
            return pb.ExtractRequest.FromString(bounded(data))
        except DecodeError as error:
            raise MalformedRequestError("the request cannot be read; expected an ExtractRequest") from error

    def bounded(data: bytes) -> bytes:
        if len(data) <= short_bytes:
            return data
        kept: list[bytes] = []
        images = begin = 0
        for number, (field, start, end) in enumerate(_fields(data)):
            if number > max_images + _MOST_FIELDS:
                raise MalformedRequestError(f"the request has more than {max_images + _MOST_FIELDS} fields")
            images += field == _IMAGES
            if field == _IMAGES and images > max_images + 1:
                kept.append(data[begin:start])
                begin = end
        if not kept:
            return data
        return b"".join([*kept, data[begin:]])

    return parse


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk over a message's fields: (number, where it starts, where it ends).

    The three low bits of a tag say how long the field is: https://protobuf.dev/programming-guides/encoding/#structure

    Raises:
        MalformedRequestError: there is a group, which this protocol never had and whose end is not told beforehand,
            or a field of no kind at all.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(data, at)
                at += length
            case 5:
                at += 4
            case kind:
                # To end here would leave what follows uncounted, and protobuf skips groups that it does not know.
                raise MalformedRequestError(
                    f"the request has a field of wire type {kind}; expected 0, 1, 2 or 5"
                )
        yield tag >> 3, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; return it and where the next thing starts."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:  # noqa: PLR2004 - the continuation bit, 64 bits
            break
    return value, at
