"""`regard.v1.FeatureService` over the pipeline."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable

from grpc.aio import ServicerContext

from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceServicer
from regard_server.catalog import Catalog
from regard_server.errors import InvalidRequestError, RegardError
from regard_server.metrics import Metrics
from regard_server.pipeline import Pipeline
from regard_server.request_id import current_request_id
from regard_server.servicers.replies import to_model, to_result, to_unloaded_model
from regard_server.servicers.requests import RequestLimits, to_request
from regard_server.servicers.status import to_status

Context = ServicerContext[pb.ExtractRequest, pb.ExtractResponse]


class FeatureServicer(FeatureServiceServicer):
    """Translates messages, and nothing else.

    Args:
        pipeline: what does the work.
        catalog: what is served.
        limits: what one request may hold.
        metrics: bytes sent are counted here.
        default_timeout_s: the deadline of callers who set none.
        stream_window: requests of one stream that are worked on at a time; the server reads no further.
        clock: the pipeline's.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        catalog: Catalog,
        limits: RequestLimits,
        metrics: Metrics,
        default_timeout_s: float,
        stream_window: int,
        clock: Callable[[], float],
    ) -> None:
        self._pipeline = pipeline
        self._catalog = catalog
        self._limits = limits
        self._metrics = metrics
        self._default_timeout_s = default_timeout_s
        self._stream_window = stream_window
        self._clock = clock

    async def Extract(self, request: pb.ExtractRequest, context: Context) -> pb.ExtractResponse:
        """Answer one request; an error of the whole request is raised."""
        remaining_s = _remaining_s(context)
        return await self._extract(
            request, self._default_timeout_s if math.isinf(remaining_s) else remaining_s
        )

    async def StreamExtract(  # type: ignore[override]  # the stub knows only generators; gRPC takes both
        self, requests: AsyncIterator[pb.ExtractRequest], context: Context
    ) -> None:
        """Answer a stream of requests as they finish, a window of them at a time."""
        window = asyncio.Semaphore(self._stream_window)
        writing = asyncio.Lock()  # gRPC takes one message at a time

        async def answer(request: pb.ExtractRequest) -> None:
            try:
                response = await self._answer(request, context)
                async with writing:
                    await context.write(response)
            finally:
                window.release()

        async with asyncio.TaskGroup() as group:
            await window.acquire()
            async for request in requests:
                group.create_task(answer(request))
                await window.acquire()
            window.release()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Describe every model."""
        return pb.ListModelsResponse(models=[self._describe(name) for name in self._catalog.states])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model, whatever its state."""
        name = request.name or self._catalog.default
        self._catalog.check_name(name)
        return pb.GetModelResponse(model=self._describe(name))

    async def _answer(self, message: pb.ExtractRequest, context: Context) -> pb.ExtractResponse:
        """Answer one request of a stream; an error of the whole request is in the response."""
        try:
            if not message.request_id:
                raise InvalidRequestError("a request on a stream needs a request_id to be matched by")
            # The deadline that gRPC knows is the whole stream's.
            timeout_s = min(_remaining_s(context), self._default_timeout_s)
            return await self._extract(message, timeout_s)
        except RegardError as error:
            return pb.ExtractResponse(request_id=message.request_id, error=to_status(error))

    async def _extract(self, message: pb.ExtractRequest, timeout_s: float) -> pb.ExtractResponse:
        arrived = self._clock()
        request, fingerprint = to_request(
            message, self._catalog, self._limits, arrived=arrived, deadline=arrived + timeout_s
        )
        results = await self._pipeline.extract(request)
        response = pb.ExtractResponse(
            request_id=message.request_id or current_request_id(),
            model=request.model.name,
            fingerprint=fingerprint,
            results=[to_result(result, request, message) for result in results],
        )
        self._metrics.sent_bytes.inc(response.ByteSize())
        return response

    def _describe(self, name: str) -> pb.Model:
        state = self._catalog.states[name]
        is_default = name == self._catalog.default
        for model, fingerprint in self._catalog.known():
            if model.name == name:
                return to_model(model, fingerprint, state, self._limits, is_default=is_default)
        return to_unloaded_model(name, state, is_default=is_default)


def _remaining_s(context: Context) -> float:
    """Return the seconds until the caller's deadline; infinity where there is none."""
    remaining: float | None = context.time_remaining()  # None, whatever the stub says
    return math.inf if remaining is None else remaining
