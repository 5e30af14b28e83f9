"""The client library and the real server: what both sides mean by the same words."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from regard_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    FingerprintMismatchError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
)

CHANCE = np.random.default_rng(3)


@pytest.fixture
def client(shared):
    with Client(shared.server.address) as client:
        yield client


@pytest.fixture
def floats():
    return CHANCE.standard_normal((12, 3, 32, 32), np.float32)


@pytest.fixture
def expected(bundle, floats):
    """What the model gives in this process."""
    with torch.inference_mode():
        return bundle.model.extract(torch.from_numpy(floats), ["embedding"])["embedding"].numpy()


def test_vectors_are_those_of_the_in_process_model(client, floats, expected):
    """From many threads at once, each caller gets the model's own vector within 1e-5."""
    with ThreadPoolExecutor(12) as callers:
        vectors = list(callers.map(client.extract, floats))
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_many_images_come_in_order(client, floats, expected):
    """The iterator gives every image's vector in its place."""
    np.testing.assert_allclose(np.stack(list(client.extract_many(floats))), expected, atol=1e-5, rtol=0)


def test_the_async_client_gets_the_same(shared, floats, expected):
    """Tasks on one connection get the model's own vectors, too."""

    async def extract():
        async with AsyncClient(shared.server.address) as client:
            return await asyncio.gather(*(client.extract(each) for each in floats))

    np.testing.assert_allclose(shared.await_(extract()), expected, atol=1e-5, rtol=0)


def test_concurrent_callers_ride_together(serve, floats):
    """Callers of one client who come while the device is busy share batches."""
    served = serve()
    served.gate.hold()
    with Client(served.server.address) as client, ThreadPoolExecutor(12) as callers:
        futures = [callers.submit(client.result, floats[0])]
        served.gate.until(1)
        futures += [callers.submit(client.result, each) for each in floats[1:]]
        served.gate.open()
        results = [future.result() for future in futures]
    assert sum(served.gate.batches) == 12
    assert len(served.gate.batches) < 12
    assert len({result.fingerprint for result in results}) == 1


def test_a_bad_image_is_an_error_of_its_own(client, floats):
    """Among many results the bad image's says what is wrong, and the others are there."""
    first, bad, second = client.results([floats[0], b"text", floats[1]])
    assert isinstance(bad.error, InvalidImageError)
    assert "expected one of JPEG" in str(bad.error)
    assert first.error is second.error is None
    with pytest.raises(InvalidImageError):
        client.extract(b"text")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "none"}, ModelNotFoundError),
        ({"output": "none"}, InvalidRequestError),
    ],
    ids=["model", "output"],
)
def test_the_servers_refusals_are_the_clients_errors(client, floats, options, error):
    """Every reason of the server is an exception of its own at the client."""
    with pytest.raises(error):
        client.extract(floats[0], **options)


def test_a_deadline_that_passes_is_the_clients_error(serve, floats):
    """Whoever of the two notices it first."""
    served = serve()
    served.gate.hold()
    with Client(served.server.address) as client, pytest.raises(DeadlineExceededError):
        client.extract(floats[0], timeout_s=0.2)


def test_a_pinned_fingerprint_refuses_another_model(shared, serve, floats):
    """Vectors of two versions are never mixed by accident."""
    other = serve(seed=1)
    with Client(shared.server.address) as client:
        fingerprint = client.result(floats[0]).fingerprint
    with (
        Client(other.server.address, expected_fingerprint=fingerprint) as client,
        pytest.raises(FingerprintMismatchError),
    ):
        client.extract(floats[0])


def test_models_are_described(client, bundle):
    """What the server says of its model arrives as it is."""
    (model,) = client.models()
    assert model == client.model() == client.model("resnet_tiny")
    assert (model.name, model.trained, model.parameters) == ("resnet_tiny", False, bundle.parameters)


def test_waiting_for_a_server_that_is_ready_returns(client):
    """Readiness is health, of the service and of the model."""
    client.wait_until_ready(30)
    client.wait_until_ready(30, model="resnet_tiny")
