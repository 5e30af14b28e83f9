"""A fake server for tests: real gRPC on a free loopback port, vectors without a network.

    with FakeServer() as server, Client(server.target) as client:
        assert np.array_equal(client.extract(b"any bytes"), server.vector(b"any bytes"))
        server.fail("OVERLOADED", StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.1)

Vectors are drawn from a hash of the image's bytes, so equal images give equal vectors and others do not. It
needs no torch, no model and no files; images are not decoded, so any bytes will do. Vectors are not normalised.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy.typing as npt
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from regard_client.images import ImageLike, read_image
from regard_client.query import Encoding
from regard_client.readiness import health_service
from regard_client.testing.servicer import OUTPUTS, Call, Failure, Script, Servicer
from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1 import features_pb2_grpc

__all__ = ["OUTPUTS", "Call", "FakeServer"]

_THREADS: Final = 32


class FakeServer:
    """A server of one model that knows nothing; use it as a context manager.

    Args:
        model: the model's name.
        outputs: what it gives, and of which shape.
        fingerprint: the model's fingerprint.
        max_images: images a request, at most.
        max_message_bytes: the largest message that it takes.
        port: where it listens on 127.0.0.1; 0 for a free one.
    """

    def __init__(
        self,
        *,
        model: str = "fake",
        outputs: Mapping[str, tuple[int, ...]] = OUTPUTS,
        fingerprint: str = "f" * 64,
        max_images: int = 64,
        max_message_bytes: int = 64 << 20,
        port: int = 0,
    ) -> None:
        self._script = Script(model, outputs, fingerprint, max_images)
        self._script.gate.set()
        # The non-blocking kind, its default, deadlocks when a watcher goes away while a state changes.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._executor = ThreadPoolExecutor(_THREADS)
        self._port = port
        options = (
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        )
        self._server = grpc.server(self._executor, options=options)
        features_pb2_grpc.add_FeatureServiceServicer_to_server(Servicer(self._script), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    @property
    def target(self) -> str:
        """The address to give a client."""
        return f"127.0.0.1:{self._port}"

    @property
    def calls(self) -> Sequence[Call]:
        """The Extract calls that arrived so far, oldest first."""
        return tuple(self._script.calls)

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint; set it to play an update of the model."""
        return self._script.fingerprint

    @fingerprint.setter
    def fingerprint(self, fingerprint: str) -> None:
        self._script.fingerprint = fingerprint

    @property
    def delay_s(self) -> float:
        """How long Extract calls take."""
        return self._script.delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        self._script.delay_s = delay_s

    def __enter__(self) -> Self:
        self._port = self._server.add_insecure_port(self.target)
        self.set_serving(serving=True)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._script.closing.set()
        self._script.gate.set()
        self._server.stop(grace=None).wait()
        self._executor.shutdown()

    def vector(
        self, image: ImageLike, output: str = "embedding", *, encoding: Encoding = "float32"
    ) -> npt.NDArray[Any]:
        """Return what the server gives for an image, as a client should get it."""
        value = pb.Encoding.Value(f"ENCODING_{encoding.upper()}")
        return tensors.to_array(self._script.tensor(read_image(image).data, output, value))

    def fail(
        self,
        reason: str,
        code: grpc.StatusCode = grpc.StatusCode.INTERNAL,
        *,
        message: str = "told to fail",
        retry_after_s: float | None = None,
        times: int = 1,
    ) -> None:
        """Let the next Extract calls fail as a whole; an empty reason sends a bare status without details."""
        self._script.failures.extend([Failure(reason, code, message, retry_after_s)] * times)

    def fail_image(
        self,
        image: ImageLike,
        reason: str = "IMAGE_UNDECODABLE",
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        *,
        message: str = "told to fail",
    ) -> None:
        """Let one image fail, whatever request it is in; those beside it are answered."""
        self._script.image_failures[read_image(image).data] = Failure(reason, code, message)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep Extract calls waiting for their answers inside the `with`."""
        self._script.gate.clear()
        try:
            yield
        finally:
            self._script.gate.set()

    def wait_for_calls(self, number: int, timeout_s: float = 10.0) -> None:
        """Return when so many Extract calls have arrived in all.

        Raises:
            TimeoutError: they did not.
        """
        with self._script.arrival:
            if not self._script.arrival.wait_for(lambda: len(self._script.calls) >= number, timeout_s):
                raise TimeoutError(
                    f"{len(self._script.calls)} calls arrived within {timeout_s:g} s; expected {number}"
                )

    def set_serving(self, *, serving: bool) -> None:
        """Say through `grpc.health.v1` that the server and its model serve, or do not."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", health_service(""), health_service(self._script.model)):
            self._health.set(service, status)
