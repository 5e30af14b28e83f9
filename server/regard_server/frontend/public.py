"""The front end that gRPC's public interface gives: `grpc.aio`."""

from collections.abc import Sequence
from typing import Any

import grpc

from regard_server.frontend.routes import Routes


class PublicFrontEnd:
    """Serves routes through `grpc.aio`. Construct and use it in the event loop that it is to run in.

    Args:
        routes: what is served.
        options: gRPC's channel arguments.
    """

    name = "public"

    def __init__(self, routes: Routes, options: Sequence[tuple[str, Any]]) -> None:
        self._server = grpc.aio.server(options=options)
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
