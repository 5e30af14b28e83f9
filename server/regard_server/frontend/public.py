"""The front end that gRPC's public interface gives: `grpc.aio`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from regard_server.frontend.routes import Handler, Routes


class PublicFrontEnd:
    """Serves routes through `grpc.aio`. Construct and use it in the event loop that it is to run in.

    Args:
        routes: what is served.
        options: gRPC's channel arguments.
        max_calls: calls at a time, over all connections; more are RESOURCE_EXHAUSTED. None: any number.
    """

    name = "public"

    def __init__(
        self, routes: Routes, options: Sequence[tuple[str, Any]], *, max_calls: int | None = None
    ) -> None:
        doors = (_Door(routes),) if routes.door else ()
        self._server = grpc.aio.server(options=options, interceptors=doors, maximum_concurrent_rpcs=max_calls)
        for service, handlers in routes.services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind an address, with TLS where there are credentials; return the port.

        Raises:
            OSError: it cannot be bound.
        """
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}; is another server there?") from error

    async def start(self) -> None:
        """Begin to take calls."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and cancel those that are not over in time; again and again if need be."""
        await self._server.stop(grace_s)


class _Door(grpc.aio.ServerInterceptor):
    """The routes' door, as gRPC knows such things."""

    def __init__(self, routes: Routes) -> None:
        self._door = routes.door
        self._methods = frozenset(routes.methods)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        method: str = handler_call_details.method
        answer = None
        if self._door and method in self._methods:
            answer = self._door(method, handler_call_details.invocation_metadata)
        return answer or await continuation(handler_call_details)
