"""Health: the truth that `grpc.health.v1` and /readyz tell, overall, for the service, and for every model.

It follows the models' states and nothing else: not serving before warm-up, while draining, or when the device
thread has died. Nothing is stored that could contradict them; who watches is woken when they change.
"""

import asyncio

from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import Catalog, ModelState

SERVICE = pb.DESCRIPTOR.services_by_name["FeatureService"].full_name


class Health:
    """Who serves. Used from the event loop; `ready` may be asked from anywhere."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._changed = asyncio.Event()
        self._leaving = False
        self.draining = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether every model takes requests."""
        states = self._catalog.states.values()
        return not self._leaving and all(state is ModelState.READY for state in states)

    def serving(self, service: str) -> bool | None:
        """Return whether the server ("", or the service's name) or a model of it serves; None if there is none such."""
        if service in {"", SERVICE}:
            return self.ready
        owner, _, model = service.rpartition("/")
        state = self._catalog.states.get(model) if owner == SERVICE else None
        return None if state is None else state is ModelState.READY and not self._leaving

    async def change(self) -> None:
        """Wait until something may have changed."""
        await self._changed.wait()

    def publish(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """Send new callers elsewhere, from now on; who comes all the same is served."""
        self._leaving = True
        self.publish()

    def drain(self) -> None:
        """Let those go who would stay: watchers, and streams that wait for more requests."""
        self.draining.set()
        self.leave()
