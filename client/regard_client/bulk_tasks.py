"""Many images, one event loop: a window of tasks in flight, read from its oldest end.

Unlike a thread, a task can wait for the next image and for the oldest answer at once, so that an answer is
yielded when it comes, however long the next image takes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeAlias

import grpc

from regard_client import bulk
from regard_client.bulk import Item, Items, Pile
from regard_client.coalescing import Coalescing
from regard_client.core import Core, is_too_much
from regard_client.images import ImageLike, reads_files
from regard_client.query import Query
from regard_client.results import Result
from regard_proto.v1 import features_pb2 as pb

Call: TypeAlias = Callable[[pb.ExtractRequest, float], Awaitable[pb.ExtractResponse]]
Images: TypeAlias = Iterable[ImageLike] | AsyncIterable[ImageLike]


class BulkCalls:
    """Sends one caller's images, a window of messages at a time.

    Args:
        core: what is common to both clients.
        limits: what one message holds.
        query: says what to ask, anew for every message.
        max_in_flight: messages on their way at once.
        timeout_s: how long one message may take, and how long it is tried again.
        call: sends a request with so many seconds to go; raises `grpc.RpcError`.
    """

    def __init__(
        self,
        core: Core,
        limits: Coalescing,
        query: Callable[[], Query],
        *,
        max_in_flight: int,
        timeout_s: float,
        call: Call,
    ) -> None:
        self._core = core
        self._query = query
        self._timeout_s = timeout_s
        self._call = call
        self._max_in_flight = max_in_flight
        self._pile = Pile(limits)
        self._window: deque[asyncio.Task[list[Result]]] = deque()

    async def results(self, images: Images) -> AsyncGenerator[Result, None]:
        """Yield every image's result, in order; cancels what is in flight when the consumer stops.

        Raises:
            RegardError: a call failed for good.
            TypeError: an image is none of the accepted kinds.
        """
        items = _read(images)
        coming: asyncio.Task[Item | None] | None = None
        try:
            more = True
            while more or self._window:
                if more and coming is None and len(self._window) < self._max_in_flight:
                    coming = asyncio.ensure_future(anext(items, None))
                waited = [task for task in (coming, *list(self._window)[:1]) if task is not None]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if coming is not None and coming.done():
                    item, coming = coming.result(), None
                    more = item is not None
                    if item is not None:
                        self._pile.add(item)
                while self._window and self._window[0].done():
                    for result in self._window.popleft().result():
                        yield result
                self._depart(last=not more)
        finally:
            leftover = [task for task in (coming, *self._window) if task is not None]
            for task in leftover:
                task.cancel()
            await asyncio.gather(*leftover, return_exceptions=True)
            await items.aclose()

    def _depart(self, *, last: bool) -> None:
        while items := self._pile.depart(idle=last or all(task.done() for task in self._window)):
            self._window.append(asyncio.ensure_future(self._settle(items)))

    async def _settle(self, items: Items) -> list[Result]:
        """Send a message, as often or in as many parts as it takes; return its results."""
        pictures = bulk.pictures(items)
        if not pictures:
            return bulk.results(items, pb.ExtractResponse())
        give_up_s = time.monotonic() + self._timeout_s
        attempt = 0
        while True:
            query = self._query()
            request = self._core.request(query, pictures)
            try:
                response = await self._call(request, self._timeout_s)
            except grpc.RpcError as cause:
                error = self._core.translate(cause, request.request_id)
                if is_too_much(error) and len(items) > 1:
                    self._pile.shrink(len(items) // 2)
                    first, second = bulk.halves(items)
                    return await self._settle(first) + await self._settle(second)
                pause = bulk.pause_s(error, attempt, give_up_s - time.monotonic())
                if pause is None:
                    raise error from cause
                attempt += 1
                await asyncio.sleep(pause)
            else:
                self._core.check(query, response, len(pictures))
                return bulk.results(items, response)


async def _read(images: Images) -> AsyncGenerator[Item, None]:
    """Yield the images ready for the wire; whatever may block is read in a thread."""
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield await _read_one(image)
    else:
        for image in images:
            yield await _read_one(image)


async def _read_one(image: ImageLike) -> Item:
    return await asyncio.to_thread(bulk.read_item, image) if reads_files(image) else bulk.read_item(image)
