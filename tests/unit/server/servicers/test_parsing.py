"""Bytes into requests: like protobuf's own parser, but never more images than are wanted."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import MalformedRequestError
from regard_server.servicers.parsing import bounded_parser

MOST = 3
GROUP = 3  # the wire type that begins one
parse = bounded_parser(MOST, short_bytes=0)

images = st.one_of(
    st.builds(pb.Image),
    st.builds(pb.Image, encoded=st.binary(max_size=200)),
    st.builds(
        pb.Image, raw=st.builds(pb.RawImage, height=st.integers(0, 2**32 - 1), data=st.binary(max_size=9))
    ),
)
requests = st.builds(
    pb.ExtractRequest,
    model=st.text(max_size=20),
    outputs=st.lists(st.text(max_size=9), max_size=5),
    encoding=st.sampled_from(pb.Encoding.values()),
    l2_normalize=st.booleans(),
    request_id=st.text(max_size=20),
    images=st.lists(images, max_size=9),
)


@given(requests)
def test_all_but_the_images_beyond_the_limit_is_kept(request):
    """Every other field, and as many images as tell that there are too many, come out as protobuf parses them."""
    parsed = parse(request.SerializeToString())
    assert len(parsed.images) in {len(request.images), MOST + 1}
    del request.images[len(parsed.images) :]
    assert parsed == request


@given(st.integers(MOST + 1, 500), st.integers(0, 30))
def test_too_many_images_stay_too_many(count, before):
    """However many there are and wherever they stand, one more than allowed is given."""
    last = pb.ExtractRequest(request_id="last").SerializeToString()
    parsed = parse(b"\x1a\x01x" * before + b"\x12\0" * count + last)
    assert len(parsed.images) == MOST + 1
    assert (len(parsed.outputs), parsed.request_id) == (before, "last")


def test_nothing_hides_behind_a_group():
    """A group, which protobuf would skip as unknown, does not keep the images behind it from being counted."""
    begin, end = b"\x7b", b"\x7c"  # of field 15
    with pytest.raises(MalformedRequestError, match="wire type 3"):
        parse(begin + end + b"\x12\0" * 100_000)


@given(st.binary(max_size=300))
def test_what_is_no_message_is_what_it_was(data):
    """Bytes that protobuf refuses are refused, and others without groups give what it gives, but for the images."""
    try:
        expected = pb.ExtractRequest.FromString(data)
    except DecodeError:
        with pytest.raises(MalformedRequestError):
            parse(data)
        return
    if any(tag & 7 == GROUP for tag in data):  # there may be one
        return
    parsed = parse(data)
    del expected.images[len(parsed.images) :]
    assert parsed == expected


def test_a_message_of_too_many_fields_is_no_message():
    """Nobody walks over millions of fields for a caller."""
    with pytest.raises(MalformedRequestError, match="more than 65539 fields"):
        parse(b"\x12\0" * 100_000)
