"""The pipeline's results into regard.v1 messages."""

import math
from dataclasses import replace

import numpy as np
import pytest
from served_models import TINY

from regard_models import OutputInfo, load_bundle
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.errors import UndecodableImageError
from regard_server.request import Request, Result, Timings
from regard_server.servicers.replies import add_result, encoder

VALUES = np.random.default_rng(0).standard_normal(37, np.float32)
OUTPUTS = {
    "embedding": OutputInfo("embedding", "embedding", (37,), ("channel",), ""),
    "logits": OutputInfo("logits", "logits", (37,), ("class",), ""),
}


def encode(values, output="embedding", outputs=OUTPUTS, **options):
    """Encode one output, and return its tensor."""
    model = replace(TINY, outputs=outputs)
    request = Request(model, [], (output,), arrived=0.0, deadline=1.0, priority=0)
    response = pb.ExtractResponse()
    encode = encoder(pb.ExtractRequest(**options))
    size = add_result(response, Result({output: values}, Timings()), request, encode)
    (encoded,) = response.results[0].features.outputs
    assert (encoded.name, len(encoded.tensor.data)) == (output, size)
    return encoded.tensor


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
    response = pb.ExtractResponse()
    request = Request(TINY, [], ("embedding",), arrived=0.0, deadline=1.0, priority=0)
    assert add_result(response, result, request, encoder(pb.ExtractRequest())) == 0
    (encoded,) = response.results
    assert encoded.WhichOneof("outcome") == "error"
    assert (encoded.error.code, encoded.error.message) == (3, "it is broken")
    assert (encoded.timings.decode_ms, encoded.timings.total_ms, encoded.timings.batch_size) == (250, 500, 0)
