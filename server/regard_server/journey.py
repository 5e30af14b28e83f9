"""The journey of one picture: read ─→ wait for the device ─→ result.

What can be read at once needs no task of its own: its entry goes to the batcher with those of its message, and its
result comes back through a callback; of several pictures that were gathered, perhaps in parts. One that is decoded in
the pool, or may share another's answer, waits in between, and so is a coroutine.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final

from regard_server.answers import Room
from regard_server.batcher import Batcher, Outcome
from regard_server.decoding import DecodePool
from regard_server.errors import RegardError
from regard_server.metrics import Metrics
from regard_server.request import Picture, Request, Result, Timings
from regard_server.reuse import Answer, Reuse, Urgency, content_key
from regard_server.waiting import Entry
from regard_server.work import Rows, Work

# So much is hashed in 0.3 ms; what is larger is not on the event loop.
_QUICKLY_HASHED_BYTES: Final = 1 << 18

Give = Callable[[int, Result], None]
"""Takes a result, and of how many pictures that were gathered with these it is not, because they come before them."""


class Journey:
    """Where pictures go; used from the event loop. See `Pipeline` for the arguments."""

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

    def is_short(self, picture: Picture) -> bool:
        """Tell whether a picture has nothing to wait for but the device."""
        return picture.quick and self._reuse is None

    @property
    def knows_nothing(self) -> bool:
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
    ) -> list[Entry]:
        """Begin a short journey: read the picture here and now; return its entry, or none if it cannot be read.

        The entry is for the batcher, and takes the room then; `give` gets the result.
        """
        began = self._clock()
        try:
            pictures = picture.read()
        except RegardError as error:
            room.give_back()
            give(0, self._unreadable(request, error, began))
            return []
        decoded = self._clock()
        decode_s = (decoded - began) / picture.images
        self._metrics.decode_seconds.labels(request.model.name).observe(decode_s, picture.images)

        def answer(outcome: Outcome) -> None:
            give(outcome.first, self._result(request, outcome, decode_s))

        return [_enter(request, pictures, room, decoded, answer)]

    async def make(self, request: Request, picture: Picture, room: Room) -> Result:
        """Make any journey, from reading to the result, which may be an error of this picture's own."""
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
            return self._unreadable(request, error, began)
        decoded = self._clock()
        self._metrics.decode_seconds.labels(request.model.name).observe(decoded - began)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = _enter(request, pictures, room, decoded, partial(_settle, answered))
        self._batcher.submit([entry])
        room.taken()
        try:
            return self._result(request, await answered, decoded - began)
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

    def _unreadable(self, request: Request, error: RegardError, began: float) -> Result:
        now = self._clock()
        return Result(error, Timings(decode_s=now - began, total_s=now - request.arrived))

    def _result(self, request: Request, outcome: Outcome, decode_s: float) -> Result:
        timings = Timings(
            decode_s,
            outcome.queue_s,
            outcome.compute_s,
            self._clock() - request.arrived,
            outcome.batch_size,
        )
        value = outcome.value
        if isinstance(value, RegardError):
            return Result(value, timings, outcome.size)
        if value.broken and outcome.size == 1:
            return Result(value.broken[0], timings)
        return Result(value.values, timings, outcome.size, value.broken)


def settle(outcomes: Sequence[Outcome], metrics: Metrics) -> None:
    """Answer the callers of a batch; runs on the event loop."""
    first = outcomes[0]
    if first.batch_size:  # it ran, and the others with it
        model = first.entry.key.model  # type: ignore[attr-defined]  # a BatchKey; the batcher only hashes it
        metrics.batch_size.labels(model).observe(first.batch_size)
        metrics.compute_seconds.labels(model).observe(first.compute_s)
        if isinstance(first.value, Rows):
            values, broken = first.value
            well = next((place for place in range(first.size) if place not in broken), None) if broken else 0
            if well is not None:
                metrics.embeddings.offer(model, values, well)
        queue_seconds = metrics.queue_seconds.labels(model)
        for outcome in outcomes:
            queue_seconds.observe(outcome.queue_s, outcome.size)
    for outcome in outcomes:
        # The scheduler may keep the entry's shell for a while, and the owner holds the request and all its results.
        owner, outcome.entry.owner = outcome.entry.owner, None
        owner(outcome)


def _enter(
    request: Request, pictures: Sequence[Any], room: Room, now: float, owner: Callable[[Outcome], None]
) -> Entry:
    work = Work(pictures, request.outputs)
    return Entry(
        room.key,
        work,
        owner,
        request.deadline,
        request.priority,
        now,
        len(pictures),
        promised=room.owed,
    )


def _urgency(request: Request) -> Urgency:
    return Urgency(request.priority, request.arrived, request.deadline)


def _settle(answered: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not answered.done():
        answered.set_result(outcome)
