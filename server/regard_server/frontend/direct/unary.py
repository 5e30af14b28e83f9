"""A call that is answered without a coroutine: its message goes to `begin`, and `finish` sends the answer.

watch, receive ─→ begin(message, call) ─→ … ─→ finish: status, message and metadata in one batch
left ────────────────────↯ leave()
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from regard_server.frontend.direct.core import CallOverError, message
from regard_server.frontend.direct.core import Metadata as CoreMetadata
from regard_server.frontend.routes import Begin, Metadata

_OK: Final = grpc.StatusCode.OK


class _Core(Protocol):
    """What is asked of a `CoreCall`."""

    @property
    def metadata(self) -> Any: ...
    @property
    def deadline(self) -> float | None: ...
    def peer(self) -> str: ...
    def identities(self) -> Any: ...
    def finish(self, message: bytes | None, code: int, details: str, trailing: CoreMetadata) -> None: ...


class UnaryCall:
    """One call; used from the event loop. See `routes.UnaryCall` for what its servicer asks of it.

    Args:
        core: the call in gRPC's core.
        begin: what answers it.
        logger: where bugs are logged.
    """

    __slots__ = ("_begin", "_core", "_leave", "_left", "_logger", "finished")

    def __init__(self, core: _Core, begin: Begin, logger: logging.Logger) -> None:
        self._core = core
        self._begin = begin
        self._logger = logger
        self._leave: Callable[[], object] | None = None
        self._left = False
        self.finished = False

    def invocation_metadata(self) -> Any:
        """Return what the caller sent along."""
        return self._core.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None where there is none."""
        deadline = self._core.deadline
        return None if deadline is None else max(deadline - time.time(), 0.0)

    def peer(self) -> str:
        """Return the caller's address."""
        return self._core.peer()

    def peer_identities(self) -> Any:
        """Return who the caller is, under mutual TLS."""
        return self._core.identities()[1]

    def when_left(self, leave: Callable[[], object]) -> None:
        """Have a function called if the caller leaves before he has his answer."""
        if not self.finished:
            self._leave = leave

    def take(self, event: Any) -> None:
        """Take the message that was received, and begin to answer it."""
        if self._left:
            return
        data = message(event)
        if data is None:
            self.finish(None, grpc.StatusCode.INTERNAL, "the call ended without a request", ())
            return
        try:
            self._begin(data, self)
        except Exception:
            self._logger.exception("a bug in what begins calls")
            self.finish(None, grpc.StatusCode.UNKNOWN, "internal error; the server's log says why", ())

    def leave(self) -> None:
        """The caller has left: nobody is to be answered."""
        self._left = True
        leave, self._leave = self._leave, None
        if leave is not None and not self.finished:
            leave()

    def finish(self, message: bytes | None, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """Send the message, if there is one, and the status; to a caller who has left, nothing."""
        if self.finished or self._left:
            return
        self.finished = True
        self._leave = None
        try:
            number = 0 if code is _OK else code.value[0]
            self._core.finish(message, number, details, tuple(trailing))
        except CallOverError:
            self._left = True
        except Exception:  # not for whoever answers: he may have the answers of other calls at hand
            self._logger.exception("a bug in what ends calls")
