"""Extract over a real channel."""

import io

import grpc
import numpy as np
import pytest
import torch
from encoded import jpeg
from PIL import Image

from regard_models.samples import sample_photographs
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server import app
from regard_server.gpu_jpeg import open_gpu_jpegs

CHANCE = np.random.default_rng(1)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@torch.inference_mode()
def in_process(bundle, batch, output="embedding"):
    return bundle.model.extract(torch.from_numpy(batch), [output])[output].numpy()


@pytest.fixture
def floats():
    """Eight pictures that are ready for the network."""
    return CHANCE.standard_normal((8, 3, 32, 32), np.float32)


def test_vectors_equal_those_of_the_in_process_model(shared, bundle, floats, vectors):
    """Float tensors give what the model gives here, within 1e-5."""
    response = shared.extract(*(pb.Image(tensor=tensors.from_array(each)) for each in floats))
    np.testing.assert_allclose(vectors(response), in_process(bundle, floats), atol=1e-5, rtol=0)


def test_a_tensor_that_is_not_finite_leaves_the_others_their_vectors(shared, bundle, floats, vectors):
    """Of tensors that came in one message one has an error, and the others have what the model gives here."""
    response = shared.extract(
        *(
            pb.Image(tensor=tensors.from_array(each))
            for each in (*floats[:3], floats[3] * np.nan, *floats[4:])
        )
    )
    bad = response.results.pop(3)
    assert "expected finite numbers" in bad.error.message
    kept = floats[[0, 1, 2, 4, 5, 6, 7]]
    np.testing.assert_allclose(vectors(response), in_process(bundle, kept), atol=1e-5, rtol=0)


def test_the_three_forms_of_one_picture_give_one_vector(shared, bundle, vectors):
    """A file, raw pixels and a normalised tensor of the same picture agree."""
    pixels = CHANCE.integers(0, 256, (32, 32, 3), np.uint8)
    mean, std = (np.asarray(getattr(bundle.preprocessing, name), np.float32) for name in ("mean", "std"))
    ready = ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)
    response = shared.extract(
        pb.Image(encoded=png(pixels)),
        pb.Image(raw=pb.RawImage(height=32, width=32, data=pixels.tobytes())),
        pb.Image(tensor=tensors.from_array(ready)),
    )
    first, second, third = vectors(response)
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(second, third, atol=1e-5)


def test_jpegs_are_read_on_the_device_that_is_asked_for(serve, monkeypatch, vectors):
    """With the GPU's decoder, its library on the host in place of a GPU, a photograph has the vector it has without."""
    asked = []

    def reader(device, logger):
        reads = open_gpu_jpegs("cpu", logger)
        return lambda *given: asked.append(device) or reads(*given)

    photograph = pb.Image(encoded=sample_photographs()[0].read_bytes())
    (expected,) = vectors(serve().extract(photograph))
    monkeypatch.setattr(app, "open_gpu_jpegs", reader)
    (found,) = vectors(serve(jpeg_decoder="gpu").extract(photograph))
    assert asked == ["cuda"]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.999


def test_results_keep_the_order_of_the_images(shared, pictures, vectors):
    """The n-th result is the n-th image's, whatever batches they rode in."""
    images = pictures(70)
    together = vectors(shared.extract(*images))
    backwards = vectors(shared.extract(*reversed(images)))
    np.testing.assert_allclose(together, backwards[::-1], atol=1e-5)


def test_several_outputs_come_in_the_order_asked_for(shared, bundle, floats, vector):
    """Outputs are named, shaped as the model says, and each is the model's own."""
    response = shared.extract(
        pb.Image(tensor=tensors.from_array(floats[0])), outputs=["layer2", "logits", "embedding"]
    )
    (result,) = response.results
    assert [output.name for output in result.features.outputs] == ["layer2", "logits", "embedding"]
    for index, output in enumerate(result.features.outputs):
        expected = in_process(bundle, floats[:1], output.name)[0]
        np.testing.assert_allclose(vector(result, index), expected, atol=1e-5)
        assert expected.shape == bundle.model.outputs[output.name].shape


def test_tensors_of_other_sizes_are_served(shared, bundle, vectors):
    """A ready tensor is not resized; pictures of different sizes may come in one request."""
    batch = [
        CHANCE.standard_normal((3, *size), np.float32) for size in ((32, 32), (40, 64), (1, 1), (512, 3))
    ]
    response = shared.extract(*(pb.Image(tensor=tensors.from_array(each)) for each in batch))
    for values, each in zip(vectors(response), batch, strict=True):
        np.testing.assert_allclose(values, in_process(bundle, each[None])[0], atol=1e-5)


def test_a_response_says_who_answered_and_where_the_time_went(shared, pictures):
    """Model, fingerprint and timings are in every response."""
    response = shared.extract(*pictures(2))
    (model,) = shared.features.ListModels(pb.ListModelsRequest()).models
    assert (response.model, response.fingerprint) == ("resnet_tiny", model.fingerprint)
    for result in response.results:
        timings = result.timings
        assert timings.batch_size >= 1
        assert min(timings.decode_ms, timings.queue_ms, timings.compute_ms) >= 0
        steps = timings.decode_ms + timings.queue_ms + timings.compute_ms
        assert timings.total_ms >= steps * 0.999  # float32


def test_encodings_and_normalisation_arrive(shared, pictures, vectors):
    """Half precision of a unit vector is the unit vector, halved in bytes."""
    (image,) = pictures(1)
    plain = vectors(shared.extract(image))[0]
    response = shared.extract(image, encoding=pb.ENCODING_FLOAT16, l2_normalize=True)
    assert response.results[0].features.outputs[0].tensor.dtype == pb.DATA_TYPE_FLOAT16
    np.testing.assert_allclose(vectors(response)[0], plain / np.linalg.norm(plain), atol=1e-3)


def test_the_fingerprint_can_be_pinned(shared, pictures, reason):
    """The expected model answers, another one refuses with FINGERPRINT_MISMATCH."""
    (model,) = shared.features.ListModels(pb.ListModelsRequest()).models
    assert shared.extract(*pictures(1), expected_fingerprint=model.fingerprint).results
    with pytest.raises(grpc.RpcError) as error:
        shared.extract(*pictures(1), expected_fingerprint="0" * 64)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error.value) == "FINGERPRINT_MISMATCH"
    assert model.fingerprint in error.value.details()


def test_another_seed_has_another_fingerprint(shared, serve):
    """Two servers with different weights cannot be taken for each other."""
    models = [each.features.ListModels(pb.ListModelsRequest()).models[0] for each in (shared, serve(seed=1))]
    assert models[0].fingerprint != models[1].fingerprint
    assert [model.weights for model in models] == ["seed 0, untrained", "seed 1, untrained"]


def test_the_request_id_of_the_message_comes_back(shared, pictures):
    """A caller's own id stands in the response."""
    assert shared.extract(*pictures(1), request_id="mine").request_id == "mine"


def test_the_request_id_of_the_message_is_in_the_log(serve, pictures, monkeypatch):
    """The line of a call bears the name that its message has; on a stream each request's trouble bears its own."""
    served = serve()
    served.extract(*pictures(1), request_id="mine")
    served.journal.until("Extract OK")
    assert (
        dict(zip(served.journal.lines, served.journal.names, strict=True))[
            next(line for line in served.journal.lines if "Extract OK" in line)
        ]
        == "mine"
    )
    monkeypatch.setattr("regard_server.images.read_jpeg", lambda *_: 1 / 0)  # a bug of ours
    stream = served.features.StreamExtract(
        iter([pb.ExtractRequest(images=[pb.Image(encoded=jpeg())], request_id="theirs")]), timeout=30
    )
    assert next(stream).error.message.startswith("internal error")
    assert served.journal.names[served.journal.lines.index("a bug in StreamExtract")] == "theirs"


def test_the_request_id_of_the_metadata_comes_back(shared, pictures):
    """`x-request-id` is echoed in the trailers, and names a request that has no id of its own."""
    request = pb.ExtractRequest(images=pictures(1))
    response, call = shared.features.Extract.with_call(request, metadata=[("x-request-id", "trace-7")])
    assert response.request_id == "trace-7"
    assert dict(call.trailing_metadata())["x-request-id"] == "trace-7"


def test_without_an_id_the_server_makes_one_up(shared, pictures):
    """The response and the trailers carry the same new id."""
    response, call = shared.features.Extract.with_call(pb.ExtractRequest(images=pictures(1)))
    assert len(response.request_id) == 32
    assert dict(call.trailing_metadata())["x-request-id"] == response.request_id


def test_a_failed_call_is_named_too(shared):
    """Whoever complains can quote the id under which the log knows his request."""
    with pytest.raises(grpc.RpcError) as error:
        shared.extract(metadata=[("x-request-id", "trace-8")])
    assert dict(error.value.trailing_metadata())["x-request-id"] == "trace-8"


def test_several_models_stand_side_by_side(serve, pictures):
    """Each is chosen by its name, the first without one, and batches never mix them."""
    served = serve(models=("first=resnet_tiny", "second=resnet_tiny"))
    response = served.extract(*pictures(1), model="second")
    assert response.model == "second"
    assert served.extract(*pictures(1)).model == "first"
    listed = served.features.ListModels(pb.ListModelsRequest()).models
    assert [(model.name, model.is_default) for model in listed] == [("first", True), ("second", False)]
    assert served.check("regard.v1.FeatureService/second") == "SERVING"


def test_models_describe_themselves(shared, bundle):
    """ListModels and GetModel say what may be asked for, by whom it is answered, and how it was made."""
    (model,) = shared.features.ListModels(pb.ListModelsRequest()).models
    assert shared.features.GetModel(pb.GetModelRequest(name="resnet_tiny")).model == model
    assert shared.features.GetModel(pb.GetModelRequest()).model == model
    assert (model.is_default, model.trained, model.weights) == (True, False, "seed 0, untrained")
    assert (model.state, model.device, model.parameters) == (pb.MODEL_STATE_READY, "cpu", bundle.parameters)
    assert (model.preprocessing.height, model.preprocessing.resize) == (32, 32)
    np.testing.assert_allclose(model.preprocessing.mean, bundle.preprocessing.mean, rtol=1e-6)
    assert {output.name: tuple(output.shape) for output in model.outputs} == {
        name: info.shape for name, info in bundle.model.outputs.items()
    }
    assert (model.limits.max_images, model.limits.min_tensor_side, model.limits.max_tensor_side) == (
        256,
        1,
        512,
    )
    assert len(model.fingerprint) == 64


def test_a_model_that_is_not_there_cannot_be_described(shared, reason):
    """GetModel of an unknown name is NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as error:
        shared.features.GetModel(pb.GetModelRequest(name="resnet_tinny"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason(error.value) == "MODEL_NOT_FOUND"


def test_a_unix_socket_serves_as_well(serve, pictures, tmp_path):
    """The address may be a path."""
    served = serve(address=f"unix:{tmp_path}/regard.sock")
    assert served.server.address == f"unix:{tmp_path}/regard.sock"
    assert served.extract(*pictures(1)).results
