"""Batches of a model whose engine gives embeddings only, over real channels with the device held at a gate."""

import numpy as np
import pytest

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.engine import Mode, engine


class EmbeddingsOnly:
    """A runner whose embedding no other network gives: the mean of the picture's bytes, throughout."""

    def __init__(self, bundle, _mode, **_options):
        self._shape = bundle.model.outputs["embedding"].shape

    def covers(self, key, output):
        return key.form == "pixels" and output == "embedding"

    def run(self, _key, pictures, outputs):
        assert list(outputs) == ["embedding"]
        means = pictures.reshape(len(pictures), -1).mean(axis=1, dtype=np.float32)
        return {"embedding": np.repeat(means[:, None], *self._shape, axis=1)}


@pytest.fixture
def served(serve, monkeypatch):
    monkeypatch.setattr(
        "regard_server.engine.choice.candidates", lambda *_, **__: [Mode("openvino", "float32")]
    )
    monkeypatch.setattr(engine, "OpenVinoRunner", EmbeddingsOnly)
    return serve(max_batch=8, engine="openvino")


def test_an_embedding_is_the_same_whatever_is_asked_beside_it(served, pictures, vectors):
    """The engine that was chosen gives it to everybody, and what that lacks comes from the float32 network."""
    (image,) = pictures(1)
    alone = vectors(served.extract(image))
    served.gate.batches.clear()
    served.gate.hold()
    busy = served.begin(image)
    served.gate.until(1)
    asked = [
        ["embedding"],
        ["logits"],
        ["embedding", "logits"],
        ["layer1"],
        ["layer1", "embedding", "logits"],
    ]
    futures = [served.begin(image, outputs=outputs) for outputs in asked]
    served.queue.until(len(asked))
    served.gate.open()
    found = [
        {
            output.name: tensors.to_array(output.tensor)
            for output in future.result().results[0].features.outputs
        }
        for future in futures
    ]
    assert [list(each) for each in found] == asked
    for each in found:
        if "embedding" in each:
            assert np.array_equal(each["embedding"], alone[0])
    assert sorted(served.gate.batches) == [
        1,
        1,
        2,
        2,
    ]  # those who need the other network, or maps, ride apart
    assert busy.result().results


def test_what_two_networks_cost_is_not_taken_for_the_cost_of_one(served, pictures):
    """The costs of embeddings are learnt from batches of embeddings only, and those of the others apart."""
    (image,) = pictures(1)
    for outputs in (["embedding"], ["logits"], ["logits", "embedding"], ["layer1"]):
        served.extract(image, outputs=outputs)
    seen = served.queue.scheduler._costs._seen
    assert {key.cost for key in seen} == {"pooled", "exact", "maps"}


def test_ready_tensors_ride_together_for_any_vector(served):
    """One network gives all of their vectors, so there is nothing to keep apart."""
    served.gate.hold()
    values = np.random.default_rng(0).standard_normal((3, 32, 32), np.float32)
    image = pb.Image(tensor=tensors.from_array(values))
    busy = served.begin(image)
    served.gate.until(1)
    futures = [served.begin(image, outputs=[name]) for name in ("embedding", "logits")]
    served.queue.until(2)
    served.gate.open()
    assert [result.timings.batch_size for each in futures for result in each.result().results] == [2, 2]
    assert busy.result().results
