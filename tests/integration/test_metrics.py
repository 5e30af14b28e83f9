"""What Prometheus sees of a real server."""

import re
import socket
import string
import urllib.error
import urllib.parse
import urllib.request
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub
from regard_server import scheduler


@pytest.fixture
def scrape():
    """Scrape a server: {(sample, labels): value}."""

    def scrape(served):
        with urllib.request.urlopen(f"http://{served.server.metrics_address}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in families
                for sample in family.samples
            }

    return scrape


def probe(served, path):
    try:
        with urllib.request.urlopen(f"http://{served.server.metrics_address}{path}", timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_every_answer_is_counted(serve, scrape, pictures):
    """Requests by code, items by outcome, sizes, bytes and durations are what was sent."""
    served = serve(metrics_address="127.0.0.1:0")
    served.extract(*pictures(3), pb.Image(encoded=b"text"))
    with pytest.raises(grpc.RpcError):
        served.extract(model="none")
    seen = scrape(served)
    model = ("model", "resnet_tiny")
    assert seen["regard_requests_total", ("code", "OK"), ("method", "Extract")] == 1
    assert seen["regard_requests_total", ("code", "NOT_FOUND"), ("method", "Extract")] == 1
    assert seen["regard_items_total", model, ("outcome", "ok")] == 3
    assert seen["regard_items_total", model, ("outcome", "invalid")] == 1
    assert seen["regard_batch_size_sum", model] == 3
    assert seen["regard_received_bytes_total",] == 3 * 32 * 32 * 3 + 4
    assert seen["regard_sent_bytes_total",] == 3 * 64 * 4
    for name in ("decode", "queue"):
        assert seen[f"regard_{name}_duration_seconds_count", model] == 3
    assert seen["regard_request_duration_seconds_count", ("method", "Extract")] == 2
    assert seen["regard_compute_duration_seconds_count", model] == sum(
        seen["regard_batch_size_bucket", ("le", "+Inf"), model] for _ in range(1)
    )
    for name in ("regard_queue_depth", "regard_in_flight_images", "regard_in_flight_bytes"):
        assert seen[name,] == 0


def test_the_model_is_named_with_its_fingerprint(shared, scrape):
    """Dashboards can tell which version answered, and that it is ready."""
    (model,) = shared.features.ListModels(pb.ListModelsRequest()).models
    seen = scrape(shared)
    (info,) = (dict(key[1:]) for key in seen if key[0] == "regard_model_info")
    assert info == {
        "model": "resnet_tiny",
        "fingerprint": model.fingerprint,
        "trained": "false",
        "dtype": "float32",
        "engine": "eager",
        "device": "cpu",
    }
    assert seen["regard_ready",] == 1


def test_the_build_is_named(shared, frontend, scrape):
    """Operators see which replicas are compiled, and which fell back to the slower front end."""
    (info,) = (dict(key[1:]) for key in scrape(shared) if key[0] == "regard_build_info")
    compiled = str(Path(scheduler.__file__).suffix != ".py").lower()
    assert info == {"version": version("regard"), "frontend": frontend, "compiled": compiled}


def made_up(count):
    """Names that nobody serves: of every alphabet, with what a text format must escape, short and long."""
    chance = np.random.default_rng(0)
    alphabet = [*string.printable, *"äß漢字🦆\u202e\x00"]
    for number in range(count):
        yield "".join(chance.choice(alphabet, chance.choice([1, 8, 64, 2000]))) + str(number)


def begin_calls(served, image, name):
    """Put a name wherever a caller can put one; return the calls that were begun."""
    word = re.sub(r"[^!-~]", "_", name)[:200]  # what HTTP/2 lets through
    metadata = [(f"x-{len(name)}", word), ("x-request-id", word), ("authorization", f"Bearer {word}")]
    for fields in (
        {"model": name},
        {"outputs": [name]},
        {"expected_fingerprint": name},
        {"request_id": name},
        {"priority": len(name)},
    ):
        request = pb.ExtractRequest(images=[image], **fields)
        yield served.features.Extract.future(request, timeout=30, metadata=metadata)
    yield served.features.GetModel.future(pb.GetModelRequest(name=name), timeout=30)
    path = urllib.parse.quote(name[:100], safe="")
    for method in (f"/regard.v1.FeatureService/{path}", f"/{path}/Extract", f"/{path}"):
        yield served.channel.unary_unary(method).future(b"", timeout=30)


def test_what_callers_send_makes_no_new_series(serve, scrape, pictures):
    """Thousands of made-up models, outputs, ids, methods, services and headers: the series stay the same."""
    # What is said of embeddings begins with the sixteenth.
    served = serve(metrics_address="127.0.0.1:0", embedding_samples_per_s=0)
    (image,) = pictures(1)
    before = set(scrape(served))
    for name in made_up(300):
        answered = [call.exception() for call in [*begin_calls(served, image, name)]]
        assert any(answered)
        with served.connect() as channel:
            stream = FeatureServiceStub(channel).StreamExtract(
                iter([pb.ExtractRequest(request_id=name, model=name)])
            )
            assert next(stream).error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert set(scrape(served)) == before


def test_gauges_show_what_is_inside(serve, scrape, pictures):
    """While the device is busy a scrape shows who is inside and who waits."""
    served = serve(metrics_address="127.0.0.1:0")
    served.gate.hold()
    futures = [served.begin(*pictures(1))]
    served.gate.until(1)
    futures.append(served.begin(*pictures(2)))
    served.queue.until(2)
    seen = scrape(served)
    assert seen["regard_in_flight_images",] == 3
    assert seen["regard_in_flight_bytes",] == 3 * 32 * 32 * 3
    assert seen["regard_queue_depth",] == 2
    served.gate.open()
    assert all(future.result().results for future in futures)


def test_probes_of_a_warm_server(shared):
    """Live and ready are both 200."""
    assert [probe(shared, path) for path in ("/livez", "/readyz")] == [200, 200]


def test_probes_of_a_dead_device(serve, pictures):
    """Neither live nor ready once the device thread has ended."""
    served = serve(metrics_address="127.0.0.1:0")

    def die(_key, _batch):
        raise SystemExit

    served.gate.fault = die
    with pytest.raises(grpc.RpcError):
        served.extract(*pictures(1))
    served.journal.until("the device thread ended")
    served.server._devices[0].join(30)
    assert [probe(served, path) for path in ("/livez", "/readyz")] == [503, 503]


def test_a_server_without_a_metrics_port(serve, pictures):
    """An empty address switches it off."""
    served = serve()
    assert served.server.metrics_address == ""
    assert served.extract(*pictures(1)).results


def test_a_metrics_port_in_use_is_an_oserror_that_names_it(serve):
    """Whoever starts a server hears which of its ports is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}"):
            serve(metrics_address=address)
