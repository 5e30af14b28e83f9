"""What can be called through Envoy: gRPC, JSON and grpc-web, small and large, in time and late."""

import base64
import json
import struct
import subprocess
from contextlib import closing
from http.client import HTTPConnection

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from process import BIN
from processes import ENVOY, Envoy, Worker, free_ports
from secrets_of_tests import make_secrets

from regard_client import Client, ModelNotFoundError
from regard_models.samples import sample_photographs
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

EXTRACT = "/regard.v1.FeatureService/Extract"
PHOTOGRAPH = sample_photographs()[0].read_bytes()
# More than Envoy keeps of a message by default (1 MiB), many times over.
LARGE = pb.RawImage(height=2000, width=2000, data=bytes(range(240)) * 50_000)


@pytest.fixture(scope="module")
def envoy(launch, tmp_path_factory):
    """Envoy in front of one server."""
    (port,) = free_ports(1)
    launch(Worker, port).ready()
    return launch(Envoy, tmp_path_factory.mktemp("envoy"), [port]).ready(1)


@pytest.fixture(scope="module")
def vector(envoy):
    """The photograph's embedding, through gRPC."""
    with Client(envoy.target) as client:
        return client.extract(PHOTOGRAPH)


def features(response):
    """Return the vector in a response of one image, given as JSON."""
    (output,) = response["results"][0]["features"]["outputs"]
    assert output["tensor"]["dtype"] == "DATA_TYPE_FLOAT32"
    return np.frombuffer(base64.b64decode(output["tensor"]["data"]), "<f4")


def decoded(text):
    """Return what pieces of base64 say, each of which may be padded."""
    return b"".join(base64.b64decode(text[start : start + 4]) for start in range(0, len(text), 4))


def encoded(image):
    return {"images": [{"encoded": base64.b64encode(image).decode()}]}


@pytest.mark.parametrize("tls", [False, True])
def test_the_configuration_is_valid(tls, tmp_path):
    """Envoy takes the file as it is, with TLS and without, and finds nothing deprecated in it."""
    text = (ENVOY / "envoy.yaml").read_text().replace("/etc/envoy/", f"{ENVOY}/")
    if tls:
        made = make_secrets(tmp_path)
        text = "\n".join(line.removeprefix("#tls") for line in text.splitlines())
        for secret in ("tls_certificate", "tls_key", "tls_ca"):
            text = text.replace(f"/run/secrets/{secret}", made[secret.upper()])
    config = tmp_path / "envoy.yaml"
    config.write_text(text)
    done = subprocess.run(
        [BIN / "envoy", "--mode", "validate", "--config-path", config],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "eprecated" not in done.stderr


def test_large_messages_pass(envoy):
    """A message of 36 MB, most of what a worker takes, is answered through gRPC."""
    request = pb.ExtractRequest(images=[pb.Image(raw=LARGE)] * 3)
    with grpc.insecure_channel(envoy.target, [("grpc.max_send_message_length", -1)]) as channel:
        answer = FeatureServiceStub(channel).Extract(request, timeout=60)
    assert all(result.HasField("features") for result in answer.results)


def test_errors_keep_their_details(envoy):
    """The reason of an error comes through Envoy as the server gave it."""
    with Client(envoy.target) as client, pytest.raises(ModelNotFoundError) as error:
        client.extract(PHOTOGRAPH, model="nonesuch")
    assert error.value.reason == "MODEL_NOT_FOUND"


def test_health_can_be_asked_and_watched(envoy):
    """The client's `wait_until_ready` works through Envoy, and so does a plain check."""
    with Client(envoy.target) as client:
        client.wait_until_ready(30)
    with grpc.insecure_channel(envoy.target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert envoy.is_ready()


def test_json_gives_the_same_vector(envoy, vector):
    """POST /v1/extract with a photograph in base64 answers what gRPC answers."""
    status, headers, body = envoy.http("/v1/extract", encoded(PHOTOGRAPH))
    assert (status, headers["content-type"]) == (200, "application/json")
    np.testing.assert_array_equal(features(json.loads(body)), vector)


def test_json_of_many_megabytes_passes(envoy):
    """16 MB of JSON are read, and the answer with its feature maps is of several."""
    raw = {"height": LARGE.height, "width": LARGE.width, "data": base64.b64encode(LARGE.data).decode()}
    status, _, body = envoy.http("/v1/extract", {"images": [{"raw": raw}], "outputs": ["layer1"]})
    assert status == 200
    assert features(json.loads(body)).size


def test_a_stream_is_an_array(envoy, vector):
    """POST /v1/extract:stream takes an array of requests and answers with one of responses."""
    requests = [{"request_id": name, **encoded(PHOTOGRAPH)} for name in ("a", "b")]
    status, _, body = envoy.http("/v1/extract:stream", requests)
    answers = json.loads(body)
    assert status == 200
    assert {answer["request_id"] for answer in answers} == {"a", "b"}
    for answer in answers:
        np.testing.assert_allclose(features(answer), vector, rtol=1e-4)  # batched together


def test_models_can_be_listed_and_described(envoy):
    """GET /v1/models and /v1/models/NAME say what is served, what is false or zero included."""
    _, _, listed = envoy.http("/v1/models")
    _, _, described = envoy.http("/v1/models/resnet_tiny")
    (model,) = json.loads(listed)["models"]
    assert model == json.loads(described)["model"]
    assert (model["name"], model["trained"], model["state"]) == ("resnet_tiny", False, "MODEL_STATE_READY")


def test_json_errors_have_a_status_and_a_reason(envoy):
    """A gRPC error becomes the HTTP status that fits, with code, message and details as the body."""
    status, _, body = envoy.http("/v1/extract", {"model": "nonesuch", **encoded(PHOTOGRAPH)})
    error = json.loads(body)
    assert (status, error["code"]) == (404, 5)
    assert "MODEL_NOT_FOUND" in {detail.get("reason") for detail in error["details"]}
    status, _, body = envoy.http("/v1/extract", encoded(b"no picture"))
    (result,) = json.loads(body)["results"]
    assert status == 200  # the request was right, its one image was not
    assert "IMAGE_FORMAT_UNKNOWN" in {detail.get("reason") for detail in result["error"]["details"]}
    assert envoy.http("/v1/extract", b"{no json")[0] == 400
    status, _, body = envoy.http("/v2/nothing")
    assert (status, json.loads(body)["code"]) == (404, 5)


def test_json_callers_may_set_a_deadline(envoy):
    """The header grpc-timeout is the deadline of a call: whoever has not even sent all by then is told so."""
    with closing(HTTPConnection("127.0.0.1", envoy.http_port, timeout=60)) as connection:
        connection.putrequest("POST", "/v1/extract")
        for header in (
            ("content-type", "application/json"),
            ("content-length", "99"),
            ("grpc-timeout", "50m"),
        ):
            connection.putheader(*header)
        connection.endheaders(b'{"images":')
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["code"]) in {(408, 4), (504, 4)}


def test_grpc_web_gives_the_same_vector(envoy, vector):
    """A browser's call, binary or as text, is answered with a message and a frame of trailers."""
    message = pb.ExtractRequest(images=[pb.Image(encoded=PHOTOGRAPH)]).SerializeToString()
    framed = struct.pack(">BI", 0, len(message)) + message
    binary = {"content_type": "application/grpc-web+proto", "x_grpc_web": "1"}
    text = {"content_type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
    answers = [
        envoy.http(EXTRACT, framed, **binary)[2],
        decoded(envoy.http(EXTRACT, base64.b64encode(framed), **text)[2]),
    ]
    for answer in answers:
        kind, length = struct.unpack(">BI", answer[:5])
        response = pb.ExtractResponse.FromString(answer[5 : 5 + length])
        trailers = answer[5 + length :]
        assert (kind, trailers[0]) == (0, 0x80)
        assert b"grpc-status:0" in trailers
        (output,) = response.results[0].features.outputs
        np.testing.assert_array_equal(tensors.to_array(output.tensor), vector)


def test_pages_of_this_machine_may_call_and_others_may_not(envoy):
    """A browser's preflight is granted to pages of localhost and to no other."""
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "x-grpc-web"}
    _, own, _ = envoy.http(EXTRACT, method="OPTIONS", origin="http://localhost:5173", **asked)
    _, other, _ = envoy.http(EXTRACT, method="OPTIONS", origin="http://localhost.example.com", **asked)
    assert own["access-control-allow-origin"] == "http://localhost:5173"
    assert "x-grpc-web" in own["access-control-allow-headers"]
    assert other["access-control-allow-origin"] is None


def test_only_metrics_leave_the_admin_port(envoy):
    """The port for Prometheus shows metrics and readiness; what could stop Envoy is not on it."""
    port = envoy.observe_port
    status, _, body = envoy.http("/stats/prometheus", port=port)
    assert status == 200
    assert b'envoy_cluster_membership_healthy{envoy_cluster_name="workers"} 1' in body
    assert envoy.http("/readyz", port=port)[0] == 200
    assert envoy.http("/quitquitquit", port=port, method="POST", body=b"")[0] == 404
    assert envoy.http("/server_info", port=port)[0] == 404


def test_what_fails_is_logged(envoy):
    """An error is one line of JSON: the method, the status, the worker, the request's name."""
    with grpc.insecure_channel(envoy.target) as channel:
        extract = FeatureServiceStub(channel).Extract
        named = [("x-request-id", "to-be-found")]
        with pytest.raises(grpc.RpcError):
            extract(pb.ExtractRequest(model="nonesuch"), timeout=30, metadata=named)
    envoy.until("to-be-found")
    (line,) = (line for line in envoy.output.splitlines() if "to-be-found" in line)
    logged = json.loads(line)
    assert (logged["path"], logged["grpc"], logged["attempts"]) == (EXTRACT, "NotFound", 1)
