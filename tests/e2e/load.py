"""Load on a service: callers in a closed loop who keep account of every answer and of every failure.

Two sorts, because they fail differently: plain stubs on a channel that tries nothing twice, and the client library,
which retries and lets concurrent calls ride together.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import grpc
import numpy as np

from regard_client import Client, RegardError
from regard_client.images import ImageLike
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

Call = Callable[[], object]

# For a machine that is busy with other things too.
PATIENCE_S = 300.0
CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that was not answered: when, since the load began, and why."""

    after_s: float
    why: str


@dataclass
class Load:
    """Threads that call again and again while the context lasts.

    Attributes:
        calls: what each thread calls; an exception of gRPC's or of the client library's is a failure, any other
            ends the test.
        answered: how many calls were.
        failures: those that were not.
    """

    calls: Sequence[Call]
    answered: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._stopping = False
        self._bug: BaseException | None = None
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._repeat, args=(call,)) for call in self.calls]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        if self._bug is not None:
            raise self._bug

    def until(self, more: int) -> None:
        """Wait until so many more calls have come to an end."""
        with self._changed:
            target = self.answered + len(self.failures) + more
            enough = self._changed.wait_for(
                lambda: self._bug or self.answered + len(self.failures) >= target, PATIENCE_S
            )
        if self._bug is None and not enough:
            raise TimeoutError(f"{more} more calls did not end within {PATIENCE_S:g} s")

    def _repeat(self, call: Call) -> None:
        while not self._stopping and self._bug is None:
            failure: Failure | None = None
            try:
                call()
            except (grpc.RpcError, RegardError) as error:
                failure = Failure(round(time.monotonic() - self._began, 2), _why(error))
            except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
                self._bug = error
            with self._changed:
                if failure:
                    self.failures.append(failure)
                else:
                    self.answered += 1
                self._changed.notify_all()


def _why(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"


@contextmanager
def stub_calls(target: str, image: pb.Image, threads: int) -> Iterator[list[Call]]:
    """Give calls of one image through plain stubs on one channel that tries nothing twice."""
    request = pb.ExtractRequest(images=[image])
    with grpc.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel:
        extract = FeatureServiceStub(channel).Extract

        def call() -> None:
            (result,) = extract(request, timeout=CALL_TIMEOUT_S).results
            if not result.HasField("features"):
                raise AssertionError(f"no features: {result.error}")

        yield [call] * threads


@contextmanager
def library_calls(target: str, image: ImageLike, threads: int) -> Iterator[list[Call]]:
    """Give calls of one image through one client of the library."""
    with Client(target, timeout_s=CALL_TIMEOUT_S) as client:

        def call() -> None:
            vector = client.extract(image)
            if vector.ndim != 1 or not np.isfinite(vector).all():
                raise AssertionError(f"no vector: {vector}")

        yield [call] * threads


@contextmanager
def both_sorts(target: str, image: bytes, threads: int) -> Iterator[Load]:
    """Put load of both sorts on a target, so many threads each, while the context lasts."""
    with (
        stub_calls(target, pb.Image(encoded=image), threads) as plain,
        library_calls(target, image, threads) as library,
        Load([*plain, *library]) as load,
    ):
        yield load
