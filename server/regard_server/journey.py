"""The journey of a picture that has to wait on its way to the device: read in the pool, or another's answer shared.

    read in the decode pool ─→ wait for the device ─→ result
    identity ─→ remembered, or on its way to another? ─→ result

It is a task of its own. What needs no such thing goes the straight way (`straight.py`).
"""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final

from regard_server.answers import Room
from regard_server.batcher import Batcher, Outcome
from regard_server.decoding import DecodePool
from regard_server.errors import RegardError
from regard_server.metrics import Metrics
from regard_server.request import Picture, Request, Result, Timings
from regard_server.reuse import Answer, Reuse, Urgency, content_key
from regard_server.straight import Give, enter, to_result, unreadable

# So much is hashed in 0.3 ms; what is larger is not on the event loop.
_QUICKLY_HASHED_BYTES: Final = 1 << 18


class Journeys:
    """Where pictures go that have to wait; used from the event loop. See `Pipeline` for the arguments."""

    def __init__(
        self,
        *,
        decoders: DecodePool,
        batcher: Batcher,
        metrics: Metrics,
        clock: Callable[[], float],
        reuse: Reuse | None,
    ) -> None:
        self._decoders = decoders
        self._batcher = batcher
        self._metrics = metrics
        self._clock = clock
        self._reuse = reuse

    @property
    def know_nothing(self) -> bool:
        """Whether no answer is remembered, nor on its way to somebody who may share it."""
        return self._reuse is None or self._reuse.is_empty

    def is_known(self, request: Request, picture: Picture) -> bool:
        """Tell whether the answer of a picture with an identity is there or on its way, so that nothing is computed."""
        if self._reuse is None or picture.identity is None:
            return False
        return self._reuse.knows(picture.identity, _urgency(request))

    async def identify(self, request: Request) -> Request:
        """Give pictures their identities."""
        pictures = [
            picture._replace(identity=await self._identity(request, picture)) for picture in request.pictures
        ]
        return request._replace(pictures=pictures)

    def begin(
        self,
        request: Request,
        picture: Picture,
        room: Room,
        give: Give,
        fail: Callable[[BaseException], None],
    ) -> "asyncio.Task[None]":
        """Send a picture on its way, and return its task; `give` gets the result, `fail` a bug."""

        async def travel() -> None:
            try:
                give(0, await self._make(request, picture, room))
            except Exception as error:  # noqa: BLE001 - raised again where the answers are waited for
                fail(error)

        return asyncio.get_running_loop().create_task(travel())

    async def _make(self, request: Request, picture: Picture, room: Room) -> Result:
        """Make the journey, from reading to the result, which may be an error of this picture's own."""
        try:
            if self._reuse is not None and picture.content is not None:
                return await self._share(self._reuse, request, picture, room)
            return await self._compute(request, picture, room)
        except RegardError as error:  # this picture's alone
            return Result(error, Timings(total_s=self._clock() - request.arrived))
        finally:
            room.give_back()

    async def _compute(self, request: Request, picture: Picture, room: Room) -> Result:
        began = self._clock()
        try:
            if picture.quick:
                pictures = picture.read()
            else:
                pictures = await self._decoders.read(
                    picture.read, priority=request.priority, deadline=request.deadline
                )
        except RegardError as error:
            return unreadable(request, error, began, self._clock())
        decoded = self._clock()
        self._metrics.decode_seconds.labels(request.model.name).observe(decoded - began)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = enter(request, pictures, room, decoded, partial(_settle, answered))
        self._batcher.submit([entry])
        room.taken()
        try:
            return to_result(request, await answered, decoded - began, self._clock())
        except BaseException:
            self._batcher.discard(entry)
            raise

    async def _share(self, reuse: Reuse, request: Request, picture: Picture, room: Room) -> Result:
        """Compute a picture, or take the answer of its like; only the one who computes needs the room at the device."""
        own: Result | None = None

        async def compute() -> Answer:
            nonlocal own
            if not room.owed:
                room.renew(self._ready_at(request, picture))
            own = await self._compute(request, picture, room)
            return own.outcome

        identity = await self._identity(request, picture)
        answer, source = await reuse.get(identity, compute, _urgency(request), on_follow=room.give_back)
        if not isinstance(answer, RegardError):
            self._metrics.reused.labels(request.model.name, source).inc()
        return own or Result(answer, Timings(total_s=self._clock() - request.arrived))

    async def _identity(self, request: Request, picture: Picture) -> Hashable:
        """Return what the same pictures have in common, as far as their answers go; None: nothing is known of it."""
        if picture.identity is not None or picture.content is None:
            return picture.identity
        identify = partial(content_key, picture.content, request.model.name, request.outputs)
        if picture.size_bytes <= _QUICKLY_HASHED_BYTES:
            return identify()
        return await self._decoders.read(identify, priority=request.priority, deadline=request.deadline)

    def _ready_at(self, request: Request, picture: Picture) -> float:
        if picture.quick:
            return self._clock()
        return self._decoders.ready_at(1, priority=request.priority, deadline=request.deadline)


def _urgency(request: Request) -> Urgency:
    return Urgency(request.priority, request.arrived, request.deadline)


def _settle(answered: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not answered.done():
        answered.set_result(outcome)
