"""What the fake server answers: vectors drawn from hashes, and whatever it was told to answer instead."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from regard_client.statuses import DETAILS_KEY, DOMAIN
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1 import features_pb2_grpc

OUTPUTS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {"embedding": (8,), "logits": (5,), "layer4": (4, 2, 2)}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call or an image fails; with an empty reason as a bare status without details."""

    reason: str
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
    message: str = "told to fail"
    retry_after_s: float | None = None

    def status(self) -> status_pb2.Status:
        """Return it as a server sends it."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason:
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN))
        if self.retry_after_s is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            status.details.add().Pack(retry)
        return status

    def abort(self, context: grpc.ServicerContext) -> None:
        """End a call with it."""
        if self.reason:
            context.set_trailing_metadata(((DETAILS_KEY, self.status().SerializeToString()),))
        context.abort(self.code, self.message)


@dataclass(frozen=True, slots=True)
class Call:
    """An Extract call as it arrived.

    Attributes:
        request: the message.
        images: the bytes of its images.
        metadata: what came with it.
        timeout_s: how long the caller meant to wait.
    """

    request: pb.ExtractRequest
    images: tuple[bytes, ...]
    metadata: Mapping[str, str | bytes]
    timeout_s: float


@dataclass(eq=False, slots=True)
class Script:
    """What the server is, was told, and saw; shared with the threads that answer."""

    model: str
    outputs: Mapping[str, tuple[int, ...]]
    fingerprint: str
    max_images: int
    delay_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    failures: deque[Failure] = field(default_factory=deque)
    image_failures: dict[bytes, Failure] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    arrival: threading.Condition = field(default_factory=threading.Condition)

    def tensor(self, data: bytes, output: str, encoding: pb.Encoding.ValueType) -> pb.Tensor:
        """Return an image's output: normal numbers drawn from a hash of both."""
        seed = int.from_bytes(hashlib.sha256(output.encode() + b"\0" + data).digest()[:8], "big")
        values = np.random.default_rng(seed).standard_normal(self.outputs[output], np.float32)
        return tensors.from_array(values, tensors.ENCODING_TYPES[encoding])


class Servicer(features_pb2_grpc.FeatureServiceServicer):
    """Answers by the script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def Extract(  # noqa: N802 - gRPC's name
        self, request: pb.ExtractRequest, context: grpc.ServicerContext
    ) -> pb.ExtractResponse:
        """Answer, or fail as told."""
        failure = self._arrive(request, context) or self._refusal(request)
        if failure is not None:
            failure.abort(context)
        return self._answer(request)

    def StreamExtract(  # noqa: N802 - gRPC's name
        self, request_iterator: Iterator[pb.ExtractRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ExtractResponse]:
        """Answer every message, or fail as told; the stream goes on."""
        for request in request_iterator:
            failure = self._arrive(request, context) or self._refusal(request)
            if failure is not None:
                yield pb.ExtractResponse(request_id=request.request_id, error=failure.status())
            else:
                yield self._answer(request)

    def ListModels(  # noqa: N802 - gRPC's name
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - holds nothing
        context: grpc.ServicerContext,  # noqa: ARG002 - gRPC's signature
    ) -> pb.ListModelsResponse:
        """Describe the one model."""
        return pb.ListModelsResponse(models=[self._description()])

    def GetModel(  # noqa: N802 - gRPC's name
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        """Describe the one model, or say that there is no other."""
        self._check_model(request.name, context)
        return pb.GetModelResponse(model=self._description())

    def _arrive(self, request: pb.ExtractRequest, context: grpc.ServicerContext) -> Failure | None:
        script = self._script
        images = tuple(_bytes_of(image) for image in request.images)
        metadata = MappingProxyType(dict(context.invocation_metadata()))
        with script.arrival:
            script.calls.append(Call(request, images, metadata, context.time_remaining()))
            failure = script.failures.popleft() if script.failures else None
            script.arrival.notify_all()
        script.gate.wait()
        script.closing.wait(script.delay_s)
        return failure

    def _refusal(self, request: pb.ExtractRequest) -> Failure | None:
        script = self._script
        if request.model not in {"", script.model}:
            return _no_model(request.model)
        if request.expected_fingerprint not in {"", script.fingerprint}:
            return Failure("FINGERPRINT_MISMATCH", grpc.StatusCode.FAILED_PRECONDITION, "another model")
        if len(request.images) > script.max_images:
            return Failure(
                "TOO_MANY_IMAGES", message=f"{len(request.images)} images; at most {script.max_images}"
            )
        unknown = [output for output in request.outputs if output not in script.outputs]
        return Failure("OUTPUT_UNKNOWN", message=f"no outputs {unknown}") if unknown else None

    def _answer(self, request: pb.ExtractRequest) -> pb.ExtractResponse:
        return pb.ExtractResponse(
            request_id=request.request_id,
            model=self._script.model,
            fingerprint=self._script.fingerprint,
            results=[self._result(request, _bytes_of(image)) for image in request.images],
        )

    def _result(self, request: pb.ExtractRequest, data: bytes) -> pb.ExtractResult:
        timings = pb.Timings(total_ms=1.0, batch_size=len(request.images))
        failure = self._script.image_failures.get(data)
        if failure is not None:
            return pb.ExtractResult(error=failure.status(), timings=timings)
        outputs = [
            pb.Output(name=name, tensor=self._script.tensor(data, name, request.encoding))
            for name in request.outputs or ["embedding"]
        ]
        return pb.ExtractResult(features=pb.Features(outputs=outputs), timings=timings)

    def _check_model(self, name: str, context: grpc.ServicerContext) -> None:
        if name not in {"", self._script.model}:
            _no_model(name).abort(context)

    def _description(self) -> pb.Model:
        script = self._script
        return pb.Model(
            name=script.model,
            is_default=True,
            fingerprint=script.fingerprint,
            state=pb.MODEL_STATE_READY,
            weights="none",
            outputs=[pb.OutputInfo(name=name, shape=shape) for name, shape in script.outputs.items()],
            limits=pb.Limits(max_images=script.max_images),
        )


def _no_model(name: str) -> Failure:
    return Failure("MODEL_NOT_FOUND", grpc.StatusCode.NOT_FOUND, f"no model {name!r}")


def _bytes_of(image: pb.Image) -> bytes:
    match image.WhichOneof("source"):
        case "encoded":
            return image.encoded
        case "raw":
            return image.raw.data
        case _:
            return image.tensor.data
