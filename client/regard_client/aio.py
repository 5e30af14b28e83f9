"""The client for asyncio: as many tasks as you like on one channel, of one event loop."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import numpy.typing as npt

from regard_client.bulk import TIMEOUT_S
from regard_client.bulk_tasks import BulkCalls, Images
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
from regard_client.images import ImageLike, read_image, reads_files
from regard_client.query import AttentionReduction, Encoding, Priority, Query
from regard_client.readiness import WATCH
from regard_client.results import Result
from regard_client.tasks import SharedCalls
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

if TYPE_CHECKING:
    from regard_proto.v1.features_pb2_grpc import FeatureServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """Features of images from a regard server, for the tasks of one event loop.

    Everything is as in `regard_client.Client`, whose documentation holds for the arguments here too. Making one
    needs no running loop; the channel belongs to the loop of the first call.

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
        self._target = target
        self._core = Core(
            target, query, expected_fingerprint, priority, sent_per_accepted=transport.sent_per_accepted
        )
        self._timeout_s = timeout_s
        self._metadata = call_metadata(token, target, credentials, plaintext_token=plaintext_token)
        self._credentials = channel_credentials(credentials)
        self._options = transport.options(target)
        self._closed = False
        self._bulk_limits = bulk_limits(coalesce)
        self._max_in_flight = max_in_flight
        self._shared = SharedCalls(self._core, coalescing(coalesce), self._extract)

    async def extract(
        self,
        image: ImageLike,
        *,
        output: str = "embedding",
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> npt.NDArray[Any]:
        """Return one output of one image; see `Client.extract`."""
        result = await self.result(image, outputs=output, model=model, timeout_s=timeout_s)
        return result.outputs[output]

    async def result(
        self,
        image: ImageLike,
        *,
        outputs: Outputs = "embedding",
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Return several outputs of one image, with timings and the model's fingerprint; see `Client.result`."""
        query = self._core.query(outputs, model)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        picture = await asyncio.to_thread(read_image, image) if reads_files(image) else read_image(image)
        return only(await self._shared.ask(query, picture, limit_s))

    async def extract_many(
        self,
        images: Images,
        *,
        output: str = "embedding",
        model: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncGenerator[npt.NDArray[Any], None]:
        """Yield one output of each of many images, in order; see `Client.extract_many`.

        The images may come from an async iterator, and each answer is yielded when it is there, however long the
        next image takes.
        """
        async with aclosing(
            self.results(images, outputs=output, model=model, timeout_s=timeout_s)
        ) as results:
            async for result in results:
                yield only(result).outputs[output]

    def results(
        self,
        images: Images,
        *,
        outputs: Outputs = "embedding",
        model: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncGenerator[Result, None]:
        """Yield a result for each of many images, in order; see `Client.results`."""
        calls = BulkCalls(
            self._core,
            self._bulk_limits,
            lambda: self._core.query(outputs, model, "bulk"),
            max_in_flight=self._max_in_flight,
            timeout_s=timeout_s,
            call=self._extract,
        )
        return calls.results(images)

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Return what the server serves; see `Client.models`."""
        response = await self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [read_model(model) for model in response.models]

    async def model(self, name: str = "", *, timeout_s: float | None = None) -> Model:
        """Return one model's description, with no name that of the server's default one; see `Client.model`."""
        response = await self._call(self._stub.GetModel, pb.GetModelRequest(name=name), timeout_s)
        return read_model(response.model)

    async def wait_until_ready(self, timeout_s: float = 60.0, *, model: str | None = None) -> None:
        """Return as soon as the server, or one of its replicas, serves the model; see `Client.wait_until_ready`."""
        waiting = self._core.readiness(model, timeout_s)
        while not self._closed:
            await asyncio.sleep(waiting.pause_s())
            watch = self._channel.unary_stream(*WATCH)(
                waiting.request, timeout=waiting.left_s(), wait_for_ready=True, metadata=self._metadata
            )
            try:
                async for response in watch:
                    if waiting.serves(self._read(response)):
                        return
            except grpc.RpcError as cause:
                waiting.failed(cause)
            finally:
                watch.cancel()
        raise self._core.closed()

    async def close(self) -> None:
        """Close the channel; calls in flight raise `ClientClosedError`. Closing twice does nothing."""
        self._closed = True
        self._core.close()
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Made at the first call, when there is a loop that they can belong to.
    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, self._options)
        return grpc.aio.secure_channel(self._target, self._credentials, self._options)

    @cached_property
    def _stub(self) -> "FeatureServiceAsyncStub":
        return FeatureServiceStub(self._channel)

    async def _extract(self, request: pb.ExtractRequest, timeout_s: float) -> pb.ExtractResponse:
        with self._open():
            return self._read(await self._stub.Extract(request, timeout=timeout_s, metadata=self._metadata))

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            with self._open():
                return self._read(await method(request, timeout=limit_s, metadata=self._metadata))
        except grpc.RpcError as cause:
            raise self._core.translate(cause) from cause

    def _read(self, response: _Response | None) -> _Response:
        """Return a reply that could be read: here gRPC gives None for one that could not, whatever its stub says."""
        if response is None:
            raise self._core.unreadable()
        return response

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Turn what gRPC says of calls on a closed channel into our own error."""
        if self._closed:
            raise self._core.closed()
        try:
            yield
        except asyncio.CancelledError:
            # Closing a channel cancels its calls; a cancelled caller is another matter.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise self._core.closed() from None
            raise
