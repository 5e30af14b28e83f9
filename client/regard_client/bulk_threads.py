"""Many images, one thread: a window of calls in flight, read from its oldest end."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import grpc

from regard_client import bulk
from regard_client.bulk import Items, Pile
from regard_client.coalescing import Coalescing
from regard_client.core import Core, is_too_much
from regard_client.images import ImageLike
from regard_client.query import Query
from regard_client.results import Result
from regard_proto.v1 import features_pb2 as pb


class PendingCall(Protocol):
    """What is used of gRPC's future."""

    def done(self) -> bool:
        """Tell whether there is an outcome."""

    def cancel(self) -> object:
        """Give the call up."""

    def result(self) -> pb.ExtractResponse:
        """Wait for the response; raises `grpc.RpcError`."""


Begin: TypeAlias = Callable[[pb.ExtractRequest, float], PendingCall]
Sleep: TypeAlias = Callable[[float], bool]


@dataclass(eq=False, slots=True)
class _Message:
    """One message on its way; `call` is None if nothing in it could be sent."""

    items: Items
    query: Query
    request_id: str
    call: PendingCall | None

    def done(self) -> bool:
        return self.call is None or self.call.done()


class BulkCalls:
    """Sends one caller's images, a window of messages at a time.

    Args:
        core: what is common to both clients.
        limits: what one message holds.
        query: says what to ask, anew for every message.
        max_in_flight: messages on their way at once.
        timeout_s: how long one message may take, and how long it is tried again.
        begin: sends a request with so many seconds to go.
        sleep: waits so many seconds, less if the client is closed.
    """

    def __init__(
        self,
        core: Core,
        limits: Coalescing,
        query: Callable[[], Query],
        *,
        max_in_flight: int,
        timeout_s: float,
        begin: Begin,
        sleep: Sleep,
    ) -> None:
        self._core = core
        self._query = query
        self._timeout_s = timeout_s
        self._begin = begin
        self._sleep = sleep
        self._max_in_flight = max_in_flight
        self._pile = Pile(limits)
        self._window: deque[_Message] = deque()

    def results(self, images: Iterable[ImageLike]) -> Generator[Result, None, None]:
        """Yield every image's result, in order; cancels what is in flight when the consumer stops.

        Raises:
            RegardError: a call failed for good.
            TypeError: an image is none of the accepted kinds.
        """
        try:
            for image in images:
                self._pile.add(bulk.read_item(image))
                self._depart(last=False)
                while self._window and (self._window[0].done() or len(self._window) >= self._max_in_flight):
                    yield from self._settle(self._window.popleft())
                    self._depart(last=False)
            self._depart(last=True)
            while self._window:
                yield from self._settle(self._window.popleft())
        finally:
            for message in self._window:
                if message.call is not None:
                    message.call.cancel()

    def _depart(self, *, last: bool) -> None:
        while items := self._pile.depart(idle=last or all(message.done() for message in self._window)):
            self._window.append(self._send(items))

    def _send(self, items: Items) -> _Message:
        query, pictures = self._query(), bulk.pictures(items)
        if not pictures:
            return _Message(items, query, "", None)
        request = self._core.request(query, pictures)
        return _Message(items, query, request.request_id, self._begin(request, self._timeout_s))

    def _settle(self, message: _Message) -> list[Result]:
        """Return the results of the oldest message; nothing if it goes again in two."""
        give_up_s = time.monotonic() + self._timeout_s
        attempt = 0
        while message.call is not None:
            try:
                response = message.call.result()
            except grpc.RpcError as cause:
                error = self._core.translate(cause, message.request_id)
                if is_too_much(error) and len(message.items) > 1:
                    self._pile.shrink(len(message.items) // 2)
                    self._window.extendleft(self._send(half) for half in reversed(bulk.halves(message.items)))
                    return []
                pause = bulk.pause_s(error, attempt, give_up_s - time.monotonic())
                if pause is None or self._sleep(pause):
                    raise error from cause
                attempt += 1
                message = self._send(message.items)
            else:
                self._core.check(message.query, response, len(bulk.pictures(message.items)))
                return bulk.results(message.items, response)
        return bulk.results(message.items, pb.ExtractResponse())
