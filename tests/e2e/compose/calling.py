"""Calls from outside: the client library, JSON, grpc-web; in the clear and through TLS."""

import base64
import json
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from report import check, see
from secrets_of_tests import TOKEN
from stack import Stack

from regard_client import Client, Tls, UnauthorizedError
from regard_models.samples import sample_photographs
from regard_proto.v1 import features_pb2 as pb

CALL_TIMEOUT_S = 60


def call(stack: Stack) -> None:
    """Ask for the sample photographs in every way that there is."""
    photographs = sample_photographs()
    with Client(stack.target, timeout_s=CALL_TIMEOUT_S) as client:
        result = client.result(photographs[0])
        vectors = np.stack(list(client.extract_many(photographs)))
    see(f"{result.model} {result.fingerprint[:12]}; {result.timings}")
    finite = vectors.ndim == 2 and np.isfinite(vectors).all() and vectors.any(axis=1).all()
    check(f"vectors of shape {vectors.shape}, all finite", bool(finite), vectors)
    spoken = json_vector(stack, photographs[0])
    check("JSON gives the vector that gRPC gives", close(spoken, vectors[0]), spoken)
    spoken = web_vector(stack, photographs[0])
    check("grpc-web gives the vector that gRPC gives", close(spoken, vectors[0]), spoken)


def close(one: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", other: object) -> bool:
    """Tell whether two vectors are the same, but for what a batch's size does to the last digits."""
    return bool(np.allclose(one, np.asarray(other), rtol=0.02, atol=0.02))


def json_vector(
    stack: Stack,
    photograph: Path,
    scheme: str = "http",
    context: ssl.SSLContext | None = None,
    token: str = "",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Return a photograph's embedding through the second listener."""
    body = json.dumps({"images": [{"encoded": base64.b64encode(photograph.read_bytes()).decode()}]}).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(stack.url("HTTP_PORT", "/v1/extract", scheme), body, headers)
    with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S, context=context) as answer:
        (result,) = json.load(answer)["results"]
    data = base64.b64decode(result["features"]["outputs"][0]["tensor"]["data"])
    return np.frombuffer(data, np.float32)


def web_vector(stack: Stack, photograph: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Return a photograph's embedding as a browser would get it."""
    message = pb.ExtractRequest(images=[pb.Image(encoded=photograph.read_bytes())]).SerializeToString()
    request = urllib.request.Request(
        stack.url("HTTP_PORT", "/regard.v1.FeatureService/Extract"),
        struct.pack(">BI", 0, len(message)) + message,
        {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
    )
    with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as answer:
        body = answer.read()
    _, length = struct.unpack(">BI", body[:5])
    (result,) = pb.ExtractResponse.FromString(body[5 : 5 + length]).results
    return np.frombuffer(result.features.outputs[0].tensor.data, np.float32)


def call_securely(stack: Stack, authority: str) -> None:
    """Call a stack with TLS and tokens: with the right ones, and without."""
    photograph = sample_photographs()[0]
    trusted = Tls(ca=authority)
    with Client(stack.target, timeout_s=CALL_TIMEOUT_S, credentials=trusted, token=TOKEN) as client:
        vector = client.extract(photograph)
    check("gRPC through TLS, with a token", vector.any(), vector)
    context = ssl.create_default_context(cafile=authority)
    spoken = json_vector(stack, photograph, "https", context, TOKEN)
    check("JSON through TLS, with a token", close(spoken, vector), spoken)
    with Client(stack.target, timeout_s=CALL_TIMEOUT_S, credentials=trusted) as client:
        try:
            client.extract(photograph)
        except UnauthorizedError as error:
            see(f"without a token: {error.code.name}")
        else:
            raise SystemExit("not so: without a token nobody is answered")
    try:
        json_vector(stack, photograph, "https", context)
    except urllib.error.HTTPError as error:
        with error:
            check("JSON without a token is 401", error.code == 401, error.code)
    else:
        raise SystemExit("not so: JSON without a token is refused")
