"""`grpc.health.v1.Health` over the truth of `health.py`.

grpcio's own servicer forgets the watchers of a service when one of them leaves, and keeps a draining server waiting
for those who never do.
"""

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer as GeneratedServicer

from regard_server.health import Health

Context = ServicerContext[HealthCheckRequest, HealthCheckResponse]
_STATUSES = {
    True: HealthCheckResponse.SERVING,
    False: HealthCheckResponse.NOT_SERVING,
    None: HealthCheckResponse.SERVICE_UNKNOWN,
}


class HealthServicer(GeneratedServicer):
    """Says who serves, once or at every change.

    Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """Say how a service is; NOT_FOUND if there is none such."""
        serving = self._health.serving(request.service)
        if serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service is served here")
        return HealthCheckResponse(status=_STATUSES[serving])

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        """Say how a service is, now and at every change, until the caller leaves or the server drains."""
        last = None
        while True:
            status = _STATUSES[self._health.serving(request.service)]
            if status != last:
                await context.write(HealthCheckResponse(status=status))
                last = status
                continue  # it may have changed while that was written
            if self._health.draining.is_set():
                return
            await self._health.change()
