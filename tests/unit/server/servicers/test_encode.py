"""The pipeline's results into the bytes of a reply."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_models import TINY

from regard_models import OutputInfo, load_bundle
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import NonFiniteOutputError, OutOfMemoryError, UndecodableImageError
from regard_server.request import Request, Result, Timings
from regard_server.servicers.encode import encode as encode_reply
from regard_server.servicers.encode import head
from regard_server.servicers.status import to_status

VALUES = np.random.default_rng(0).standard_normal(37, np.float32)
OUTPUTS = {
    "embedding": OutputInfo("embedding", "embedding", (37,), ("channel",), ""),
    "logits": OutputInfo("logits", "logits", (37,), ("class",), ""),
}


def encode(values, output="embedding", outputs=OUTPUTS, **options):
    """Encode one output, and return its tensor."""
    response = reply([Result({output: values[None]}, Timings())], (output,), outputs, **options)
    (encoded,) = response.results[0].features.outputs
    assert encoded.name == output
    return encoded.tensor


def reply(results, names=("embedding",), outputs=OUTPUTS, **options):
    """Encode results, and read the reply as whoever gets it does."""
    request = Request(replace(TINY, outputs=outputs), [], names, arrived=0.0, deadline=1.0, priority=0)
    encoded, sent = encode_reply(head("tiny", "f", "7"), results, request, pb.ExtractRequest(**options))
    response = pb.ExtractResponse.FromString(encoded)
    assert (response.request_id, response.model, response.fingerprint) == ("7", "tiny", "f")
    outputs = [output for result in response.results for output in result.features.outputs]
    assert sent == sum(len(output.tensor.data) for output in outputs)
    return response


@pytest.mark.parametrize(
    ("encoding", "dtype", "bytes_", "tolerance"),
    [
        (pb.ENCODING_UNSPECIFIED, pb.DATA_TYPE_FLOAT32, 4 * 37, 0),
        (pb.ENCODING_FLOAT32, pb.DATA_TYPE_FLOAT32, 4 * 37, 0),
        (pb.ENCODING_FLOAT16, pb.DATA_TYPE_FLOAT16, 2 * 37, 1e-3),
        (pb.ENCODING_BFLOAT16, pb.DATA_TYPE_BFLOAT16, 2 * 37, 1e-2),
        (pb.ENCODING_INT8, pb.DATA_TYPE_INT8, 37, 0.5 * np.abs(VALUES).max() / 127 + 1e-6),
    ],
)
def test_numbers_travel_in_the_encoding_asked_for(encoding, dtype, bytes_, tolerance):
    """Each encoding has its type, its size and its precision."""
    tensor = encode(VALUES, encoding=encoding)
    assert (tensor.dtype, len(tensor.data), list(tensor.shape)) == (dtype, bytes_, [37])
    np.testing.assert_allclose(tensors.to_array(tensor), VALUES, atol=tolerance, rtol=tolerance and 4e-3)


def test_binary_keeps_the_signs():
    """One bit a value, 37 of them in 5 bytes."""
    tensor = encode(VALUES, encoding=pb.ENCODING_BINARY)
    assert (tensor.dtype, len(tensor.data)) == (pb.DATA_TYPE_BIT, 5)
    np.testing.assert_array_equal(tensors.to_array(tensor), VALUES > 0)


def test_an_embedding_has_unit_length_if_asked():
    """The direction is kept, the length becomes 1, before it is encoded."""
    values = tensors.to_array(encode(VALUES, l2_normalize=True))
    assert math.isclose(np.linalg.norm(values), 1.0, rel_tol=1e-6)
    np.testing.assert_allclose(values * np.linalg.norm(VALUES), VALUES, rtol=1e-5)


def test_the_zero_vector_stays_what_it_is():
    """A vector without a direction is not divided by nought."""
    np.testing.assert_array_equal(tensors.to_array(encode(np.zeros(37, np.float32), l2_normalize=True)), 0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_embeddings_have_unit_length_too(size):
    """Squares that would leave float32's range do not spoil the length."""
    values = tensors.to_array(encode(VALUES * np.float32(size), l2_normalize=True))
    assert math.isclose(np.linalg.norm(values), 1.0, rel_tol=1e-5)


def test_other_outputs_are_not_normalised():
    """Scores keep their scale."""
    np.testing.assert_array_equal(tensors.to_array(encode(VALUES, "logits", l2_normalize=True)), VALUES)


@pytest.mark.parametrize(
    ("reduction", "over"),
    [
        (pb.ATTENTION_REDUCTION_UNSPECIFIED, ()),
        (pb.ATTENTION_REDUCTION_MEAN_QUERIES, (1,)),
        (pb.ATTENTION_REDUCTION_MEAN_HEADS_QUERIES, (0, 1)),
    ],
)
def test_attention_over_queries_and_keys_is_reduced_as_asked(reduction, over):
    """The names of a real model's axes decide what is averaged: heads × queries × keys."""
    outputs = load_bundle("mhsa_mini").model.outputs
    name = next(name for name, info in outputs.items() if info.axes == ("head", "query", "key"))
    values = np.random.default_rng(0).random((4, 5, 6), np.float32)
    tensor = encode(values, name, outputs, attention_reduction=reduction)
    expected = values.mean(axis=over) if over else values
    np.testing.assert_allclose(tensors.to_array(tensor), expected, rtol=1e-6)


def test_attention_without_queries_is_left_as_it_is():
    """Maps of other mechanisms have nothing to average over."""
    outputs = load_bundle("ea_mini").model.outputs
    name = next(name for name, info in outputs.items() if info.kind == "attention")
    values = np.random.default_rng(0).random((4, 5, 6), np.float32)
    tensor = encode(values, name, outputs, attention_reduction=pb.ATTENTION_REDUCTION_MEAN_HEADS_QUERIES)
    np.testing.assert_array_equal(tensors.to_array(tensor), values)


def test_an_error_of_one_picture_is_a_status_with_its_timings():
    """Whoever failed is told why, by code and reason, and where the time went."""
    result = Result(UndecodableImageError("it is broken"), Timings(decode_s=0.25, total_s=0.5))
    (encoded,) = reply([result]).results
    assert encoded.WhichOneof("outcome") == "error"
    assert (encoded.error.code, encoded.error.message) == (3, "it is broken")
    assert (encoded.timings.decode_ms, encoded.timings.total_ms, encoded.timings.batch_size) == (250, 500, 0)


def written_one_by_one(results, names, dtype):
    """What protobuf makes of the same results, message by message."""
    response = pb.ExtractResponse(request_id="7", model="tiny", fingerprint="f")
    for result in results:
        for place in range(result.images):
            message = response.results.add()
            for field, seconds in zip(
                ("decode", "queue", "compute", "total"), result.timings[:4], strict=True
            ):
                setattr(message.timings, f"{field}_ms", seconds * 1000)
            message.timings.batch_size = result.timings.batch_size
            if error := result.broken.get(place):
                message.error.CopyFrom(to_status(error))
                continue
            for name in names:
                tensor = tensors.from_array(result.outcome[name][place], dtype)
                message.features.outputs.add(name=name, tensor=tensor)
    return response


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    names=st.sampled_from([("embedding",), ("embedding", "logits")]),
    encoding=st.sampled_from(pb.Encoding.values()),
    broken=st.sets(st.integers(0, 4)),
    length=st.sampled_from([0, 1, 31, 32, 5000]),
)
def test_a_reply_is_what_protobuf_would_write(sizes, names, encoding, broken, length):
    """However many images a result is of, and whichever of them failed, every field is where a reader looks for it."""
    chance = np.random.default_rng(length)
    results = [
        Result(
            {name: chance.standard_normal((size, length), np.float32) for name in names},
            Timings(*chance.random(4).tolist(), batch_size=size),
            size,
            {place: UndecodableImageError(f"{place} is broken") for place in broken if place < size},
        )
        for size in sizes
    ]
    expected = written_one_by_one(results, names, tensors.ENCODING_TYPES[encoding])
    assert reply(results, names, encoding=encoding) == expected


@pytest.mark.parametrize("encoding", pb.Encoding.values())
@pytest.mark.parametrize("l2_normalize", [False, True])
def test_what_is_not_finite_of_one_picture_does_not_show_in_the_others(encoding, l2_normalize):
    """Some encodings look at every number, and a picture that has none but NaN has none to be looked at."""
    rows = np.random.default_rng(0).standard_normal((4, 37), np.float32)
    whole = reply(
        [Result({"embedding": rows.copy()}, Timings(), 4)], encoding=encoding, l2_normalize=l2_normalize
    )
    rows[0], rows[2, 5] = np.nan, np.inf
    broken = {place: NonFiniteOutputError("NaN") for place in (0, 2)}
    found = reply(
        [Result({"embedding": rows}, Timings(), 4, broken)], encoding=encoding, l2_normalize=l2_normalize
    )
    assert [each.error.message for each in found.results] == ["NaN", "", "NaN", ""]
    assert [found.results[place] for place in (1, 3)] == [whole.results[place] for place in (1, 3)]
    np.testing.assert_array_equal(rows[0], np.nan)


def test_where_every_picture_failed_by_itself_there_need_be_no_outputs():
    """Each is told its own error, as when memory held not one of them."""
    broken = {place: OutOfMemoryError(f"{place} does not fit") for place in range(3)}
    response = reply([Result({}, Timings(), 3, broken)])
    assert [each.error.message for each in response.results] == [
        f"{place} does not fit" for place in range(3)
    ]


def test_an_error_of_pictures_that_came_together_is_told_of_each():
    """Whoever was gathered with others gets his own status."""
    response = reply([Result(UndecodableImageError("it is broken"), Timings(), 3)])
    assert [each.error.message for each in response.results] == ["it is broken"] * 3


def test_every_row_of_a_batch_gets_its_own_length():
    """Embeddings that are scaled together have the bits that each would have alone."""
    rows = np.random.default_rng(0).standard_normal((5, 37), np.float32)
    rows[2] = 0
    together = reply([Result({"embedding": rows}, Timings(), 5)], l2_normalize=True)
    alone = [reply([Result({"embedding": row[None]}, Timings())], l2_normalize=True) for row in rows]
    assert list(together.results) == [each.results[0] for each in alone]


@given(st.text(max_size=200))
def test_a_reply_is_named_as_its_request_was(request_id):
    """Whatever the name is, and however long."""
    response = pb.ExtractResponse.FromString(head("tiny", "f" * 64, request_id))
    assert response == pb.ExtractResponse(request_id=request_id, model="tiny", fingerprint="f" * 64)
