"""`regard.v1.FeatureService` over the pipeline."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import grpc
from grpc.aio import ServicerContext

from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceServicer
from regard_server.catalog import Catalog
from regard_server.errors import (
    InternalError,
    InvalidRequestError,
    MalformedRequestError,
    RegardError,
    UnavailableError,
    quote,
)
from regard_server.pipeline import Pipeline
from regard_server.request_id import begin_request, current_request_id
from regard_server.servicers.extract import Extractor
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.replies import to_error_response, to_model, to_unloaded_model

Context = ServicerContext[pb.ExtractRequest, pb.ExtractResponse]


class FeatureServicer(FeatureServiceServicer):
    """Translates messages, and nothing else.

    Args:
        extractor: understands what is asked, and encodes what comes of it.
        pipeline: what does the work.
        catalog: what is served.
        limits: what one request may hold.
        default_timeout_s: the deadline of callers who set none.
        stream_window: requests of one stream that are worked on at a time; the server reads no further.
        draining: set when the server is to stop; streams then end when what they have read is answered.
        logger: where a bug in one request of a stream is logged.
    """

    def __init__(
        self,
        *,
        extractor: Extractor,
        pipeline: Pipeline,
        catalog: Catalog,
        limits: RequestLimits,
        default_timeout_s: float,
        stream_window: int,
        draining: asyncio.Event,
        logger: logging.Logger,
    ) -> None:
        self._extractor = extractor
        self._pipeline = pipeline
        self._catalog = catalog
        self._limits = limits
        self._default_timeout_s = default_timeout_s
        self._stream_window = stream_window
        self._draining = draining
        self._logger = logger

    async def Extract(self, request: pb.ExtractRequest, context: Context) -> bytes:  # type: ignore[override]
        """Answer one request, with a message that is serialized already; an error of the whole request is raised."""
        return await self._extract(request, context, context.time_remaining())

    async def StreamExtract(  # type: ignore[override]  # the stub knows only generators; gRPC takes both
        self, requests: AsyncIterator[pb.ExtractRequest], context: Context
    ) -> None:
        """Answer a stream of requests as they finish, a window of them at a time."""
        window = asyncio.Semaphore(self._stream_window)
        writing = asyncio.Lock()  # gRPC takes one message at a time
        in_flight: set[str] = set()
        malformed: list[MalformedRequestError] = []

        async def answer(request: pb.ExtractRequest) -> None:
            response = await self._answer(request, in_flight, context)
            async with writing:
                with suppress(grpc.aio.InternalError):  # the caller left; gRPC is about to cancel this call
                    await context.write(response)  # type: ignore[arg-type]  # its serializer takes both
            window.release()

        async def read(group: asyncio.TaskGroup) -> None:
            await window.acquire()
            try:
                async for request in requests:
                    group.create_task(answer(request))
                    await window.acquire()
            except MalformedRequestError as error:  # what was read before it is answered first
                malformed.append(error)

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read(group))
            leaving = group.create_task(self._draining.wait())
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            cut_short = not reading.done()
            reading.cancel()
            leaving.cancel()
        if cut_short:
            raise UnavailableError("the server is shutting down; send what was not answered to another")
        if malformed:
            raise malformed[0]

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Describe every model."""
        return pb.ListModelsResponse(models=[self._describe(name) for name in self._catalog.states])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model, whatever its state."""
        name = request.name or self._catalog.default
        self._catalog.check_name(name)
        return pb.GetModelResponse(model=self._describe(name))

    async def _answer(
        self, message: pb.ExtractRequest, in_flight: set[str], context: Context
    ) -> pb.ExtractResponse | bytes:
        """Answer one request of a stream; an error of the whole request is in the response."""
        begin_request((), message.request_id)  # in this request's own task
        try:
            # The deadline that gRPC knows is the whole stream's.
            timeout_s = min(_remaining_s(context), self._default_timeout_s)
            with _claimed(message.request_id, in_flight):
                return await self._extract(message, context, timeout_s, patient=True)
        except RegardError as error:
            return to_error_response(message, error)
        except Exception:
            self._logger.exception("a bug in StreamExtract")
            return to_error_response(message, InternalError("internal error; the server's log says why"))

    async def _extract(
        self, message: pb.ExtractRequest, context: Context, timeout_s: float | None, *, patient: bool = False
    ) -> bytes:
        asked = self._extractor.understand(message, context, timeout_s, patient=patient)
        results = await self._pipeline.extract(asked.request)
        return self._extractor.answer(asked, results, current_request_id())

    def _describe(self, name: str) -> pb.Model:
        state = self._catalog.states[name]
        is_default = name == self._catalog.default
        for model, fingerprint in self._catalog.known():
            if model.name == name:
                return to_model(model, fingerprint, state, self._limits, is_default=is_default)
        return to_unloaded_model(name, state, is_default=is_default)


@contextmanager
def _claimed(request_id: str, in_flight: set[str]) -> Iterator[None]:
    """Hold a request's name while it is in flight on its stream.

    Raises:
        InvalidRequestError: it has none, or another request has it.
    """
    if not request_id:
        raise InvalidRequestError("a request on a stream needs a request_id to be matched by")
    if request_id in in_flight:
        raise InvalidRequestError(
            f"request_id {quote(request_id)} is in flight already; expected one of its own for each request"
        )
    in_flight.add(request_id)
    try:
        yield
    finally:
        in_flight.remove(request_id)


def _remaining_s(context: Context) -> float:
    """Return the seconds until the caller's deadline; infinity where there is none."""
    remaining: float | None = context.time_remaining()  # None, whatever the stub says
    return math.inf if remaining is None else remaining
