"""Health: what `grpc.health.v1` says, overall, for the service, and for every model.

It follows the models' states and nothing else: not serving before warm-up, while draining, or when the device
thread has died.
"""

from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog, ModelState

SERVICE = pb.DESCRIPTOR.services_by_name["FeatureService"].full_name
_SERVING = HealthCheckResponse.SERVING
_NOT_SERVING = HealthCheckResponse.NOT_SERVING


class Health:
    """The health service's servicer, and the truth it tells."""

    def __init__(self, catalog: Catalog) -> None:
        self.servicer = health_aio.HealthServicer()
        self._catalog = catalog
        self._draining = False

    @property
    def ready(self) -> bool:
        """Whether every model takes requests."""
        states = self._catalog.states.values()
        return not self._draining and all(state is ModelState.READY for state in states)

    async def publish(self) -> None:
        """Tell watchers what the catalogue says now."""
        overall = _SERVING if self.ready else _NOT_SERVING
        for name in ("", SERVICE):
            await self.servicer.set(name, overall)
        for name, state in self._catalog.states.items():
            serving = state is ModelState.READY and not self._draining
            await self.servicer.set(f"{SERVICE}/{name}", _SERVING if serving else _NOT_SERVING)

    async def drain(self) -> None:
        """Send new callers elsewhere, from now on."""
        self._draining = True
        await self.publish()
