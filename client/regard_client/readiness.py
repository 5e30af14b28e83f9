"""Waiting for a server: what each news from `grpc.health.v1` means, and when to ask again.

The server is watched, not polled: it says by itself when its state changes. Only a watch that breaks off (a
restart, a proxy in between) is begun anew, after a pause.
"""

import time
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from regard_client.errors import UnavailableError
from regard_client.statuses import error_of_call
from regard_proto.v1 import features_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["FeatureService"].full_name
# The arguments of `unary_stream`, the same for both sorts of channel.
WATCH: Final = (
    "/grpc.health.v1.Health/Watch",
    health_pb2.HealthCheckRequest.SerializeToString,
    health_pb2.HealthCheckResponse.FromString,
)
_PAUSE_S: Final = 0.1


def health_service(model: str) -> str:
    """Return what a model, or with an empty name the whole service, is called in `grpc.health.v1`."""
    return f"{SERVICE}/{model}" if model else SERVICE


class Readiness:
    """One wait for one service of one server.

    Attributes:
        request: what to watch.
    """

    def __init__(self, target: str, model: str, timeout_s: float) -> None:
        self.request: Final = health_pb2.HealthCheckRequest(service=health_service(model))
        self._target = target
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._begun = False
        self._state = "not reachable"

    def left_s(self) -> float:
        """Return how long there is to wait; gRPC ends a watch after that by itself."""
        return max(self._deadline_s - time.monotonic(), 0.0)

    def pause_s(self) -> float:
        """Return how long to wait before a watch: not at all before the first.

        Raises:
            UnavailableError: the time is up.
        """
        if not self._begun:
            self._begun = True
            return 0.0
        if not self.left_s():
            raise self._late()
        return min(_PAUSE_S, self.left_s())

    def serves(self, response: health_pb2.HealthCheckResponse) -> bool:
        """Tell whether a piece of news is the one waited for."""
        self._state = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return response.status == health_pb2.HealthCheckResponse.SERVING

    def failed(self, cause: grpc.RpcError) -> None:
        """Take note that a watch broke off.

        Raises:
            UnavailableError: the time is up.
            RegardError: another watch would fare no better.
        """
        if cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise self._late() from cause
        if cause.code() is not grpc.StatusCode.UNAVAILABLE:
            raise error_of_call(cause, target=self._target) from cause
        self._state = "not reachable"

    def _late(self) -> UnavailableError:
        return UnavailableError(
            f"{self._target}: {self.request.service} is {self._state} after {self._timeout_s:g} s; expected SERVING"
        )
