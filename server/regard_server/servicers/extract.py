"""Extract: one message through the pipeline, without a coroutine of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from grpc.aio import ServicerContext

from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog
from regard_server.frontend.routes import UnaryCall
from regard_server.images import JpegReader
from regard_server.in_flight import Outcome
from regard_server.metrics import Metrics
from regard_server.pipeline import Pipeline
from regard_server.reply import Reply
from regard_server.request import Request, Result
from regard_server.servicers.encode import encode, head
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.requests import answer_by, to_request

AnyCall: TypeAlias = "UnaryCall | ServicerContext[Any, Any]"


class Asked(NamedTuple):
    """A message that was understood.

    Attributes:
        message: as it came.
        request: as the pipeline knows it.
        fingerprint: of the model.
        until: how long its caller waits, on the pipeline's clock.
    """

    message: pb.ExtractRequest
    request: Request
    fingerprint: str
    until: float


class Extractor:
    """Translates messages for the pipeline, and its results back.

    Args:
        pipeline: what does the work.
        catalog: what is served.
        limits: what one request may hold.
        metrics: bytes sent are counted here.
        default_timeout_s: the deadline of callers who set none.
        clock: the pipeline's.
        identify: says who calls, where callers have limits of their own.
        jpeg_reader: reads JPEGs first, if not the host does.
        gather: whether small pictures that need no reading go their way together.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        catalog: Catalog,
        limits: RequestLimits,
        metrics: Metrics,
        default_timeout_s: float,
        clock: Callable[[], float],
        identify: Callable[[AnyCall], str],
        jpeg_reader: JpegReader | None,
        gather: bool,
    ) -> None:
        self._pipeline = pipeline
        self._catalog = catalog
        self._limits = limits
        self._metrics = metrics
        self._default_timeout_s = default_timeout_s
        self._clock = clock
        self._identify = identify
        self._jpeg_reader = jpeg_reader
        self._gather = gather

    def begin(self, message: pb.ExtractRequest, call: UnaryCall, reply: Reply) -> None:
        """Send a message on its way; the reply is sent at its end.

        Raises:
            RegardError: it goes nowhere.
        """
        asked = self.understand(message, call, call.time_remaining())
        call.when_left(self._pipeline.begin(asked.request, partial(self._answer, asked, reply)))

    def understand(
        self, message: pb.ExtractRequest, call: AnyCall, remaining_s: float | None, *, patient: bool = False
    ) -> Asked:
        """Return what a message asks for.

        Args:
            message: as it came.
            call: that it came in.
            remaining_s: how long its caller waits; None: he does not say.
            patient: whether he waits for room.

        Raises:
            RegardError: see `to_request`.
        """
        timeout_s = self._default_timeout_s if remaining_s is None else remaining_s
        arrived = self._clock()
        request, fingerprint = to_request(
            message,
            self._catalog,
            self._limits,
            arrived=arrived,
            deadline=answer_by(arrived, timeout_s, len(message.images)),
            patient=patient,
            client=self._identify(call),
            jpeg_reader=self._jpeg_reader,
            gather=self._gather,
        )
        return Asked(message, request, fingerprint, arrived + timeout_s)

    def answer(self, asked: Asked, results: Sequence[Result], request_id: str) -> bytes:
        """Return the serialized response.

        Raises:
            DeadlineExpiredError: nobody waits for it any more.
        """
        message, request = asked.message, asked.request
        begun = head(request.model.name, asked.fingerprint, message.request_id or request_id)
        encoded, sent = encode(begun, results, request, message)
        self._pipeline.answered(request, results, asked.until)
        self._metrics.sent_bytes.inc(sent)
        return encoded

    def _answer(self, asked: Asked, reply: Reply, outcome: Outcome) -> None:
        if isinstance(outcome, BaseException):
            reply.fail(outcome)
        else:
            reply.send(partial(self.answer, asked, outcome, reply.request_id))
