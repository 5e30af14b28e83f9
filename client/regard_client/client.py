"""The client for threads: as many callers as you like on one channel."""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy.typing as npt

from regard_client.bulk import TIMEOUT_S
from regard_client.bulk_threads import BulkCalls, PendingCall
from regard_client.catalog import Model, read_model
from regard_client.channel import (
    DEFAULT_TRANSPORT,
    Credentials,
    Transport,
    call_metadata,
    channel_credentials,
)
from regard_client.coalescing import Coalescing
from regard_client.core import Core, Outputs, bulk_limits, coalescing, only
from regard_client.images import ImageLike, read_image
from regard_client.query import AttentionReduction, Encoding, Priority, Query
from regard_client.readiness import WATCH
from regard_client.results import Result
from regard_client.threads import SharedCalls
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """Features of images from a regard server. Thread-safe; share one.

    Making one neither connects nor blocks; the first call connects. Close it, or use it as a context manager.
    Fork before making one, not after: gRPC's threads do not survive a fork.

    Args:
        target: the server's address, "host:port", or a name that gRPC resolves ("dns:///regard:50051" balances
            over all addresses behind it).
        model: name of the model; empty for the server's default one.
        timeout_s: how long a call may take, queueing and retries included, unless it says otherwise.
        l2_normalize: whether embeddings are scaled to unit length.
        encoding: how values travel; float32 is exact, the others are smaller.
        expected_fingerprint: the only version of the model that may answer; "pin" for the one that answers
            first. Keeps vectors of two versions from being mixed.
        priority: which requests go first; "bulk" takes what room the others leave. None: "interactive" for
            single images, "bulk" for many.
        attention_reduction: how attention maps over queries and keys are reduced before they travel.
        credentials: TLS or mTLS; None for plain text.
        token: a bearer token that goes with every call; without TLS only to this machine.
        plaintext_token: whether it may also go to others without TLS, readable by whoever sees the traffic.
        coalesce: whether concurrent calls ride together in one message, or how much of that.
        max_in_flight: messages of one `extract_many` or `results` that are on their way at once.
        transport: limits, retries and keepalive.

    Raises:
        ValueError: an option has no such value.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        model: str = "",
        timeout_s: float = 10.0,
        l2_normalize: bool = False,
        encoding: Encoding = "float32",
        expected_fingerprint: str | None = None,
        priority: Priority | None = None,
        attention_reduction: AttentionReduction = "none",
        credentials: Credentials = None,
        token: str | None = None,
        plaintext_token: bool = False,
        coalesce: bool | Coalescing = True,
        max_in_flight: int = 4,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        query = Query(
            model=model,
            encoding=encoding,
            l2_normalize=l2_normalize,
            attention_reduction=attention_reduction,
        )
        self._core = Core(
            target, query, expected_fingerprint, priority, sent_per_accepted=transport.sent_per_accepted
        )
        self._timeout_s = timeout_s
        self._metadata = call_metadata(token, target, credentials, plaintext_token=plaintext_token)
        self._closed = threading.Event()
        secrets, options = channel_credentials(credentials), transport.options(target)
        self._channel = (
            grpc.secure_channel(target, secrets, options)
            if secrets
            else grpc.insecure_channel(target, options)
        )
        self._stub = FeatureServiceStub(self._channel)
        self._bulk_limits = bulk_limits(coalesce)
        self._max_in_flight = max_in_flight
        self._shared = SharedCalls(self._core, coalescing(coalesce), self._extract)

    def extract(
        self,
        image: ImageLike,
        *,
        output: str = "embedding",
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> npt.NDArray[Any]:
        """Return one output of one image: the embedding as (D,), a feature map as (C, H, W), ….

        Args:
            image: path, encoded bytes, binary file, `PIL.Image`, uint8 array (H, W, 3) or (H, W), or float32 array
                (3, H, W) that is ready for the network.
            output: what to return, as in `Model.outputs`.
            model: another model than the client's.
            timeout_s: another timeout than the client's.

        Raises:
            RegardError: see `regard_client.errors`.
            TypeError: the image is none of the accepted kinds.
            OSError: its file cannot be read.
        """
        return self.result(image, outputs=output, model=model, timeout_s=timeout_s).outputs[output]

    def result(
        self,
        image: ImageLike,
        *,
        outputs: Outputs = "embedding",
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Return several outputs of one image, with timings and the model's fingerprint; raises as `extract` does."""
        query = self._core.query(outputs, model)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return only(self._shared.ask(query, read_image(image), limit_s))

    def extract_many(
        self,
        images: Iterable[ImageLike],
        *,
        output: str = "embedding",
        model: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Iterator[npt.NDArray[Any]]:
        """Yield one output of each of many images, in order, and stop at the first that has none.

        Use `results` to go on past bad images. Images are drawn as they are needed, a few messages ahead, so
        there may be any number of them. A server that is overloaded or restarts is waited for.

        Args:
            images: see `extract`.
            output: what to yield, as in `Model.outputs`.
            model: another model than the client's.
            timeout_s: how long one message of several images may take, and how long it is tried again.

        Raises:
            RegardError: an image has no features, or the server did not answer.
            TypeError: an image is none of the accepted kinds.
            OSError: an image's file cannot be read.
        """
        with closing(self.results(images, outputs=output, model=model, timeout_s=timeout_s)) as results:
            for result in results:
                yield only(result).outputs[output]

    def results(
        self,
        images: Iterable[ImageLike],
        *,
        outputs: Outputs = "embedding",
        model: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Generator[Result, None, None]:
        """Yield a result for each of many images, in order; what is wrong with an image is in `Result.error`.

        Everything else is as in `extract_many`.

        Raises:
            RegardError: the server did not answer, or refused a request for another reason than its images.
            TypeError: an image is none of the accepted kinds.
        """
        calls = BulkCalls(
            self._core,
            self._bulk_limits,
            lambda: self._core.query(outputs, model, "bulk"),
            max_in_flight=self._max_in_flight,
            timeout_s=timeout_s,
            begin=self._begin,
            sleep=self._closed.wait,
        )
        return calls.results(images)

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Return what the server serves.

        Raises:
            RegardError: see `regard_client.errors`.
        """
        response = self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [read_model(model) for model in response.models]

    def model(self, name: str = "", *, timeout_s: float | None = None) -> Model:
        """Return one model's description; with no name that of the server's default one.

        Raises:
            ModelNotFoundError: the server has no such model.
            RegardError: see `regard_client.errors`.
        """
        return read_model(self._call(self._stub.GetModel, pb.GetModelRequest(name=name), timeout_s).model)

    def wait_until_ready(self, timeout_s: float = 60.0, *, model: str | None = None) -> None:
        """Return as soon as the server, or one of its replicas, serves the model.

        Args:
            timeout_s: how long to wait at most.
            model: another model than the client's; empty for the service as a whole.

        Raises:
            UnavailableError: it does not serve by then; the message says how far it got.
            RegardError: see `regard_client.errors`.
        """
        waiting = self._core.readiness(model, timeout_s)
        while not self._closed.wait(waiting.pause_s()):
            watch = self._channel.unary_stream(*WATCH)(
                waiting.request, timeout=waiting.left_s(), wait_for_ready=True, metadata=self._metadata
            )
            try:
                if any(waiting.serves(response) for response in watch):
                    return
            except grpc.RpcError as cause:
                waiting.failed(cause)
            finally:
                watch.cancel()
        raise self._core.closed()

    def close(self) -> None:
        """Close the channel; calls in flight raise `ClientClosedError`. Closing twice does nothing."""
        self._closed.set()
        self._core.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _extract(self, request: pb.ExtractRequest, timeout_s: float) -> pb.ExtractResponse:
        with self._open():
            return self._stub.Extract(request, timeout=timeout_s, metadata=self._metadata)

    def _begin(self, request: pb.ExtractRequest, timeout_s: float) -> PendingCall:
        with self._open():
            return self._stub.Extract.future(request, timeout=timeout_s, metadata=self._metadata)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            with self._open():
                return method(request, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as cause:
            raise self._core.translate(cause) from cause

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Turn gRPC's ValueError about a closed channel into our own error."""
        try:
            yield
        except ValueError:
            if self._closed.is_set():
                raise self._core.closed() from None
            raise
