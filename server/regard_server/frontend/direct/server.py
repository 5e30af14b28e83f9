"""The front end that drives the completion queue.

start ─→ serving ─→ stop: no more calls ─→ the last one is over, or the time is: cancel all ─→ stopped
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import grpc

from regard_server.frontend.direct.method import to_method
from regard_server.frontend.direct.switchboard import Switchboard
from regard_server.frontend.routes import Routes


class DirectFrontEnd:
    """Serves routes from gRPC's completion queue. Construct and use it in the event loop that it is to run in.

    Args:
        routes: what is served.
        options: gRPC's channel arguments.
        logger: where bugs are logged.
        max_calls: calls at a time, over all connections; more are RESOURCE_EXHAUSTED. None: any number.

    Raises:
        TypeError: a route is served by a function that is not asynchronous.
    """

    name = "direct"

    def __init__(
        self,
        routes: Routes,
        options: Sequence[tuple[str, Any]],
        logger: logging.Logger,
        *,
        max_calls: int | None = None,
    ) -> None:
        self._board = Switchboard(
            options,
            methods={
                name: to_method(name, handler, routes.begun.get(name))
                for name, handler in routes.methods.items()
            },
            door=routes.door,
            foresight=routes.foresight,
            max_calls=max_calls,
            loop=asyncio.get_running_loop(),
            logger=logger,
        )
        self._core = self._board.core
        self._thread = threading.Thread(target=self._board.wait_for_events, name="grpc", daemon=True)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending = asyncio.Lock()

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind an address, with TLS where there are credentials; return the port.

        Raises:
            OSError: it cannot be bound.
        """
        port = self._core.bind(address, credentials)
        if not port:
            raise OSError(f"cannot listen on {address}; is another server there?")
        return port

    async def start(self) -> None:
        """Begin to take calls."""
        self._board.open()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and cancel those that are not over in time; again and again if need be."""
        if not self._thread.ident:  # never started
            return
        self._board.shut(self._close)
        if not (await asyncio.wait((self._over,), timeout=grace_s))[0]:
            self._core.cancel_all()
            await asyncio.wait((self._over,))
        async with self._ending:
            if self._thread.is_alive():
                if tasks := [call.task for call in self._board.calls if call.task]:
                    await asyncio.wait(tasks)
                self._core.destroy()
                await asyncio.to_thread(self._thread.join)

    def _close(self, _: Any) -> None:
        self._board.closed = True
        self._over.set_result(None)
