"""Arrays to Tensor messages and back, for every element type and every shape."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
FLOATS = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
FINITE = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
TYPES = sorted(tensors.ELEMENT_TYPES)


@given(FLOATS)
def test_float32_is_exact(array):
    """Single precision survives bit by bit: NaN, infinities, signed zeros, scalars and empty axes included."""
    back = tensors.to_array(tensors.from_array(array))
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(FLOATS)
def test_float16_is_what_numpy_rounds_to(array):
    """Half precision is numpy's own rounding; what is too large becomes infinite without a warning."""
    back = tensors.to_array(tensors.from_array(array, pb.DATA_TYPE_FLOAT16))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(back, array.astype(np.float16))


@given(FLOATS)
def test_bfloat16_rounds_as_torch_does(array):
    """Bfloat16 rounds to nearest, ties to even, exactly as torch.bfloat16 does; NaN stays NaN."""
    back = tensors.to_array(tensors.from_array(array, pb.DATA_TYPE_BFLOAT16))
    expected = torch.from_numpy(array.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(back, expected)
    assert back.dtype == np.float32


@given(FINITE)
def test_int8_is_off_by_half_a_step_at_most(array):
    """Eight bits lose at most half of largest / 127, and the largest element stays ±127."""
    tensor = tensors.from_array(array, pb.DATA_TYPE_INT8)
    back = tensors.to_array(tensor)
    largest = float(np.abs(array).max(initial=0.0))
    assume(largest == 0 or largest > 1e-30)
    step = largest / 127
    assert np.all(np.abs(back.astype(np.float64) - array) <= step * 0.501)
    stored = np.frombuffer(tensor.data, np.int8)
    assert np.abs(stored.astype(int)).max(initial=0) == (127 if largest else 0)


@given(FINITE)
@example(np.array([np.finfo(np.float32).max], np.float32))
def test_int8_of_finite_values_is_finite(array):
    """No finite array becomes NaN or infinite by way of its scale, however tiny or large its values."""
    assert np.isfinite(tensors.to_array(tensors.from_array(array, pb.DATA_TYPE_INT8))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_has_no_scale(value):
    """NaN and infinities cannot be scaled to eight bits and are refused by name."""
    with pytest.raises(tensors.MalformedTensorError, match="finite"):
        tensors.from_array(np.array([1.0, value], np.float32), pb.DATA_TYPE_INT8)


@given(FLOATS)
def test_bits_say_what_is_greater_than_zero(array):
    """A bit is set where the value is greater than zero, whatever the shape."""
    back = tensors.to_array(tensors.from_array(array, pb.DATA_TYPE_BIT))
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, array > 0)


def test_rows_of_bits_are_padded_to_whole_bytes():
    """Each row starts on a byte of its own, most significant bit first, and ends in zeros."""
    tensor = tensors.from_array(np.array([[1.0] * 9, [-1.0] * 8 + [1.0]], np.float32), pb.DATA_TYPE_BIT)
    assert tensor.data == bytes([0b11111111, 0b10000000, 0b00000000, 0b10000000])


@given(hnp.arrays(np.uint8, SHAPES))
def test_uint8_is_exact(array):
    """Bytes travel as they are."""
    np.testing.assert_array_equal(tensors.to_array(tensors.from_array(array, pb.DATA_TYPE_UINT8)), array)


@given(SHAPES, st.sampled_from(TYPES))
def test_the_length_is_what_the_table_says(shape, dtype):
    """Every writer produces as many bytes as `nbytes` promises to the reader."""
    tensor = tensors.from_array(np.ones(shape, np.float32), dtype)
    assert len(tensor.data) == tensors.ELEMENT_TYPES[dtype].nbytes(shape)
    assert tuple(tensor.shape) == shape


@given(SHAPES, st.sampled_from(TYPES), st.integers(1, 3))
def test_a_wrong_length_is_refused(shape, dtype, extra):
    """A tensor whose data is longer than its type and shape imply is malformed."""
    tensor = tensors.from_array(np.ones(shape, np.float32), dtype)
    tensor.data += b"\0" * extra
    with pytest.raises(tensors.MalformedTensorError, match=f"expected {len(tensor.data) - extra}"):
        tensors.to_array(tensor)


@given(hnp.arrays(np.uint8, SHAPES), st.sampled_from(TYPES))
def test_an_array_of_ones_own_is_the_same_and_may_be_written_to(array, dtype):
    """Whatever the type and shape, it has the same values, and writing to it leaves the message as it was."""
    tensor = tensors.from_array(array.astype(np.float32), dtype)
    sent = tensor.SerializeToString()
    own = tensors.to_own_array(tensor)
    np.testing.assert_array_equal(own, tensors.to_array(tensor))
    own[...] = 1
    assert tensor.SerializeToString() == sent


@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_UNSPECIFIED, 77])
def test_an_unknown_type_is_refused(dtype):
    """A type that is unspecified or from the future is malformed, in both directions."""
    with pytest.raises(tensors.MalformedTensorError):
        tensors.to_array(pb.Tensor(dtype=dtype, shape=[1], data=b"\0"))
    with pytest.raises(tensors.MalformedTensorError):
        tensors.from_array(np.zeros(1, np.float32), dtype)


def test_a_huge_shape_is_refused_before_anything_is_allocated():
    """A shape of 2^96 elements is a wrong length, not an overflow or an allocation."""
    with pytest.raises(tensors.MalformedTensorError, match="larger than any array"):
        tensors.to_array(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2**32 - 1] * 3, data=b"\0\0\0\0"))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_huge_shape_with_an_empty_axis_is_an_error_of_ours(dtype):
    """A zero among huge axes needs no bytes; it is refused all the same, as no array has that shape."""
    tensor = pb.Tensor(dtype=dtype, shape=[2**32 - 1, 2**32 - 1, 2**32 - 1, 0])
    with pytest.raises(tensors.MalformedTensorError):
        tensors.to_array(tensor)


@pytest.mark.parametrize("dtype", TYPES)
def test_too_many_axes_are_an_error_of_ours(dtype):
    """More axes than numpy has are refused as malformed."""
    tensor = tensors.from_array(np.ones(1, np.float32), dtype)
    del tensor.shape[:]
    tensor.shape.extend([1] * 65)
    with pytest.raises(tensors.MalformedTensorError):
        tensors.to_array(tensor)


@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_that_are_not_contiguous_are_written_in_order(dtype):
    """A transposed view is written row by row of what it shows."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    expected = tensors.from_array(np.array(array.tolist(), np.float32), dtype)
    assert tensors.from_array(array, dtype) == expected


def test_every_encoding_has_a_type():
    """The table of encodings covers the API's, and leads into the table of types."""
    assert set(tensors.ENCODING_TYPES) == set(pb.Encoding.values())
    assert set(tensors.ENCODING_TYPES.values()) <= set(tensors.ELEMENT_TYPES)
