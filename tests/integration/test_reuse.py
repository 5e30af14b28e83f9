"""Identical images over real channels: one forward, and a cache by content."""

import pytest

from regard_proto.v1 import features_pb2 as pb


def test_identical_images_in_flight_cost_one_forward(serve, pictures):
    """Four callers of the same picture ride in the batch as one, and get the same bits."""
    served = serve(deduplicate=True)
    (picture,) = pictures(1)
    before = len(served.gate.batches)
    served.gate.hold()
    calls = [served.begin(picture, picture) for _ in range(2)]
    served.gate.until(before + 1)
    while served.metric("regard_in_flight_images") < 4:  # both calls are inside
        assert not any(call.done() for call in calls)
    served.gate.open()
    results = [result for call in calls for result in call.result().results]
    assert served.gate.batches[before:] == [1]
    assert all(result.features == results[0].features for result in results)
    assert sorted(result.timings.batch_size for result in results) == [0, 0, 0, 1]
    assert served.metric("regard_reuse_total", model="resnet_tiny", source="shared") == 3
    served.assert_empty()


def test_a_cache_answers_without_the_device(serve, pictures):
    """A picture that was seen is answered from memory; another, or another output, is computed."""
    served = serve(cache_bytes=1 << 20)
    first, second = pictures(2)
    computed = served.extract(first).results[0]
    batches = len(served.gate.batches)
    assert served.extract(first).results[0].features == computed.features
    assert len(served.gate.batches) == batches
    assert served.metric("regard_cache_bytes") == 64 * 4
    served.extract(second)
    served.extract(first, outputs=["logits"])
    assert len(served.gate.batches) == batches + 2
    served.assert_empty()


def test_encodings_of_one_cached_answer_differ(serve, pictures):
    """What is remembered is what the network gave; how it travels is each request's own."""
    served = serve(cache_bytes=1 << 20)
    (picture,) = pictures(1)
    served.extract(picture)
    tensor = served.extract(picture, encoding=pb.ENCODING_FLOAT16).results[0].features.outputs[0].tensor
    assert tensor.dtype == pb.DATA_TYPE_FLOAT16


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (pb.DATA_TYPE_UINT8, (3, 32, 32)),
        (pb.DATA_TYPE_FLOAT32, (7, 32, 32)),
        (pb.DATA_TYPE_FLOAT32, (3, 32, 32, 1)),
        (99, (3, 32, 32)),
    ],
)
def test_the_same_bytes_are_not_the_same_tensor(serve, dtype, shape):
    """What is wrong with a tensor is wrong too where the answer of a right one with its bytes is remembered."""
    served = serve(cache_bytes=1 << 20)
    data = bytes(4 * 3 * 32 * 32)
    right = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=(3, 32, 32), data=data)
    assert served.extract(pb.Image(tensor=right)).results[0].features.outputs
    wrong = pb.Tensor(dtype=dtype, shape=shape, data=data)
    assert served.extract(pb.Image(tensor=wrong)).results[0].error.code == 3


def test_a_bad_image_is_not_remembered(serve):
    """Its error comes back each time, with its own timings, and holds no room."""
    served = serve(cache_bytes=1 << 20)
    for _ in range(2):
        (result,) = served.extract(pb.Image(encoded=b"no image")).results
        assert result.error.code == 3
    assert served.metric("regard_cache_bytes") == 0
    served.assert_empty()


def test_nothing_is_shared_unless_asked_for(serve, pictures):
    """By default every image is computed."""
    served = serve()
    (picture,) = pictures(1)
    assert [r.timings.batch_size for r in served.extract(picture, picture).results] == [2, 2]
