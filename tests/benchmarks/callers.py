"""How a caller asks: one function a way, so that load generators need not know whom they load.

    client  regard's AsyncClient, concurrent calls riding together      stub   generated stubs, one call an image
    apart   the same without sharing                                    grpc   bytes to a peer, one call an image
    http    a POST of the bytes on a kept-alive connection              json   likewise in base64
    triton  the Open Inference Protocol's binary form over HTTP         ray    BytesValue through its proxy

A way yields a call: it takes a timeout, returns the size of the batch it rode in (0 where nobody says), and raises
`Refused` where the server had no room and `Late` where no answer came in time.

The HTTP client is a bare socket that reads no more of an answer than it must: cheaper than any that a user would
have, so that what is measured is the server. Requests are made once and sent again and again by every way but
`client` and `apart`, which make each anew.
"""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from regard_client import AsyncClient, DeadlineExceededError, OverloadedError, Transport
from regard_client.channel import DEFAULT_TRANSPORT
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

Image = np.ndarray | bytes
Call = Callable[[float], Awaitable[int]]

PEER_METHOD = "/peer.Peer/Run"
RAY_APPLICATION = "peer"
_LOCAL = (("grpc.enable_http_proxy", 0),)
_HTTP_OK = 200
_HTTP_NO_ROOM = frozenset({429, 503})
_HTTP_LATE = frozenset({408, 504})


class Refused(Exception):  # noqa: N818 - an outcome, not a fault
    """The server had no room."""


class Late(Exception):  # noqa: N818 - an outcome, not a fault
    """No answer came in time."""


@asynccontextmanager
async def client(
    target: str, image: Image, *, coalesce: bool = True, transport: Transport = DEFAULT_TRANSPORT
) -> AsyncIterator[Call]:
    async with AsyncClient(target, coalesce=coalesce, transport=transport) as opened:
        await opened.wait_until_ready()

        async def call(timeout_s: float) -> int:
            try:
                result = await opened.result(image, timeout_s=timeout_s)
            except OverloadedError as error:
                raise Refused from error
            except DeadlineExceededError as error:
                raise Late from error
            return result.timings.batch_size

        yield call


@asynccontextmanager
async def apart(target: str, image: Image) -> AsyncIterator[Call]:
    async with client(target, image, coalesce=False) as call:
        yield call


@asynccontextmanager
async def stub(target: str, image: Image) -> AsyncIterator[Call]:
    if isinstance(image, bytes):
        sent = pb.Image(encoded=image)
    else:
        sent = pb.Image(raw=pb.RawImage(height=image.shape[0], width=image.shape[1], data=image.tobytes()))
    request = pb.ExtractRequest(images=[sent])
    async with grpc.aio.insecure_channel(target, options=_LOCAL) as channel:
        extract = FeatureServiceStub(channel).Extract

        async def call(timeout_s: float) -> int:
            with _grpc_outcomes():
                response = await extract(request, timeout=timeout_s)
            result = response.results[0]
            if not result.HasField("features"):
                raise RuntimeError(result.error.message)
            return result.timings.batch_size

        yield call


@asynccontextmanager
async def peer_grpc(target: str, image: Image) -> AsyncIterator[Call]:
    request = payload(image)
    async with grpc.aio.insecure_channel(target, options=_LOCAL) as channel:
        run = channel.unary_unary(PEER_METHOD)

        async def call(timeout_s: float) -> int:
            with _grpc_outcomes():
                await run(request, timeout=timeout_s)
            return 0

        yield call


@asynccontextmanager
async def ray(target: str, image: Image) -> AsyncIterator[Call]:
    request = BytesValue(value=payload(image))
    async with grpc.aio.insecure_channel(target, options=_LOCAL) as channel:
        run = channel.unary_unary(PEER_METHOD, BytesValue.SerializeToString, BytesValue.FromString)
        metadata = (("application", RAY_APPLICATION),)

        async def call(timeout_s: float) -> int:
            with _grpc_outcomes():
                await run(request, timeout=timeout_s, metadata=metadata)
            return 0

        yield call


@asynccontextmanager
async def http(target: str, image: Image) -> AsyncIterator[Call]:
    path = target.partition("/")[2]
    body = payload(image)
    headers = f"POST /{path} HTTP/1.1\r\nHost: peer\r\nContent-Type: application/octet-stream\r\n"
    request = f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with _connections(target, request) as call:
        yield call


@asynccontextmanager
async def post_json(target: str, image: Image) -> AsyncIterator[Call]:
    path = target.partition("/")[2]
    body = json.dumps({"images": [base64.b64encode(payload(image)).decode()]}).encode()
    headers = f"POST /{path} HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\n"
    request = f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with _connections(target, request) as call:
        yield call


@asynccontextmanager
async def triton(target: str, image: Image) -> AsyncIterator[Call]:
    """The Open Inference Protocol's binary form: a JSON header, then the tensor's bytes."""
    data = payload(image)
    if isinstance(image, bytes):
        tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES"}
        data = struct.pack("<I", len(data)) + data
    else:
        tensor = {"name": "image", "shape": [1, *image.shape], "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": len(data)}
    wanted = {"name": "embedding", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
    lines = (
        "POST /v2/models/peer/infer HTTP/1.1",
        "Host: peer",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(header)}",
        f"Content-Length: {len(header) + len(data)}",
        "\r\n",
    )
    async with _connections(target, "\r\n".join(lines).encode() + header + data) as call:
        yield call


WAYS = {
    "client": client,
    "apart": apart,
    "stub": stub,
    "grpc": peer_grpc,
    "ray": ray,
    "http": http,
    "json": post_json,
    "triton": triton,
}
# Those of a closed loop. Its callers are refused only if something is wrong, and a client that answered for the server,
# in microseconds, would hide that.
_EAGER = partial(client, transport=Transport(sent_per_accepted=math.inf))
CLOSED_WAYS = WAYS | {"client": _EAGER, "apart": partial(_EAGER, coalesce=False)}


def payload(image: Image) -> bytes:
    """Return what a peer is sent: the file, or the pixels row by row."""
    return image if isinstance(image, bytes) else image.tobytes()


class _grpc_outcomes:  # noqa: N801 - used as a statement
    """Name what a call's status means."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Late from error


@dataclass(eq=False)
class _Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    answer: "asyncio.Future[int] | None" = None
    transport: asyncio.Transport | None = None
    received: bytearray = field(default_factory=bytearray)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.answer is None or self.answer.done():
            return
        head = bytes(self.received[:end]).lower()
        _, chunked, _ = head.partition(b"transfer-encoding: chunked")
        if chunked:
            complete = self.received.endswith(b"0\r\n\r\n")
        else:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            complete = len(self.received) >= end + 4 + length
        if complete:
            status = int(head[9:12])
            self.received.clear()
            self.answer.set_result(status)


@asynccontextmanager
async def _connections(target: str, request: bytes) -> AsyncIterator[Call]:
    """Yield a call that takes a free connection, or a new one where none is free."""
    host, _, port = target.partition("/")[0].rpartition(":")
    loop = asyncio.get_running_loop()
    free: list[_Connection] = []
    everyone: set[_Connection] = set()

    async def call(timeout_s: float) -> int:
        connection = free.pop() if free else None
        try:
            async with asyncio.timeout(timeout_s):
                if connection is None or connection.transport.is_closing():
                    _, connection = await loop.create_connection(_Connection, host, int(port))
                    everyone.add(connection)
                connection.answer = loop.create_future()
                connection.transport.write(request)
                status = await connection.answer
        except TimeoutError as error:
            if connection is not None:
                everyone.discard(connection)
                connection.transport.abort()  # the server may notice that nobody waits any more
            raise Late from error
        free.append(connection)
        if status in _HTTP_NO_ROOM:
            raise Refused
        if status in _HTTP_LATE:
            raise Late
        if status != _HTTP_OK:
            raise RuntimeError(f"HTTP status {status}")
        return 0

    try:
        yield call
    finally:
        for connection in everyone:
            with suppress(OSError):
                connection.transport.close()
