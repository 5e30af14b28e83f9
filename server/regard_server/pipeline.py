"""The way of a request, once, for every protocol: admit ─→ decode ─→ batch ─→ run ─→ split.

Servicers translate their messages into a `Request` and a `Reply` back; what stands here knows no wire. It runs
on the event loop: decoding happens in a pool of threads, running in the device's thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import compress

from regard_server.admission import Admission, Claim
from regard_server.answers import Answers, Room
from regard_server.batcher import Batcher
from regard_server.decoding import DecodePool
from regard_server.errors import (
    DeadlineExpiredError,
    InvalidImageError,
    NonFiniteOutputError,
    OverloadedError,
    RegardError,
    UnavailableError,
)
from regard_server.journey import Give, Journey
from regard_server.metrics import Metrics
from regard_server.request import Picture, Request, Result, Timings
from regard_server.reuse import Reuse
from regard_server.waiting import Entry
from regard_server.work import BatchKey, CostClass

_TOO_LATE = "the deadline passed after {:.3f} s"
_MAPS = frozenset({"feature_map", "attention"})
# Errors that are never one picture's alone, and the outcome that all its pictures are counted as.
_WHOLE_REQUEST: dict[type[RegardError], str] = {
    DeadlineExpiredError: "late",
    OverloadedError: "shed",
    UnavailableError: "failed",
}


class Pipeline:
    """The steps in order, with what they share.

    Args:
        admission: who may come in.
        decoders: where pictures are read.
        batcher: where they wait for the device.
        metrics: what is counted on the way.
        clock: monotonic seconds, on which the running loop's timers go too (`time.monotonic`).
        reuse: answers of identical pictures; None: each is computed.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        decoders: DecodePool,
        batcher: Batcher,
        metrics: Metrics,
        clock: Callable[[], float],
        reuse: Reuse | None = None,
    ) -> None:
        self._journey = Journey(decoders=decoders, batcher=batcher, metrics=metrics, clock=clock, reuse=reuse)
        self._admission = admission
        self._decoders = decoders
        self._batcher = batcher
        self._metrics = metrics
        self._clock = clock

    async def extract(self, request: Request) -> Sequence[Result]:
        """Return the results of all pictures, in order; one result may be of several.

        They are counted when they are `answered`; what is raised is counted here.

        Raises:
            DeadlineExpiredError: the deadline passed before any was answered.
            OverloadedError: there is no room.
            UnavailableError: the server is shutting down, or its device failed.
        """
        size = sum(picture.size_bytes for picture in request.pictures)
        self._metrics.received_bytes.inc(size)
        images = request.images
        try:
            if request.deadline <= self._clock():
                raise DeadlineExpiredError("the deadline had passed when the request arrived")
            claim = Claim(images, size, request.priority, request.deadline, request.client)
            if request.patient:
                async with asyncio.timeout_at(request.deadline):
                    await self._admission.wait(claim)
            else:
                self._admission.take(claim)
            try:
                try:
                    rooms = self._reserve(request)
                except OverloadedError:
                    if self._journey.knows_nothing:
                        raise
                    request, rooms = await self._reserve_for_new(request)
                results = await self._extract_all(request, images, rooms)
            finally:
                self._admission.give_back(claim)
        except TimeoutError as error:
            self._count(request, "late")
            waited = self._clock() - request.arrived
            raise DeadlineExpiredError(_TOO_LATE.format(waited)) from error
        except asyncio.CancelledError:
            self._count(request, "cancelled")
            raise
        except RegardError as error:
            self._count(request, _WHOLE_REQUEST.get(type(error), "failed"))
            raise
        return results

    def answered(self, request: Request, results: Sequence[Result], until: float) -> None:
        """Count what became of a request's pictures, when its answer is about to leave.

        Raises:
            DeadlineExpiredError: its caller waited until `until`, and is gone.
        """
        now = self._clock()
        if now > until:
            self._count(request, "late")
            raise DeadlineExpiredError(_TOO_LATE.format(now - request.arrived))
        self._count_each(request.model.name, results)

    async def _reserve_for_new(self, request: Request) -> tuple[Request, list[Room]]:
        """Promise room to those pictures only whose answers are neither there nor on their way: others need none."""
        async with asyncio.timeout_at(request.deadline):
            request = await self._journey.identify(request)
        new = [not self._journey.is_known(request, picture) for picture in request.pictures]
        return request, self._reserve(request, new)

    def _reserve(self, request: Request, new: Sequence[bool] | None = None) -> list[Room]:
        """Promise every picture room at the device, or every new one, in the kind of batch that it will ride in."""
        name, cost = request.model.name, _cost_class(request)
        # One network gives all vectors of tensors.
        of_tensors: CostClass = "pooled" if cost == "exact" else cost
        pictures = request.pictures
        keys = [
            BatchKey(name, each.form, each.height, each.width, cost if each.form == "pixels" else of_tensors)
            for each in pictures
        ]
        if new is None:
            self._promise(request, pictures, keys)
            new = [True] * len(keys)
        else:
            self._promise(request, [*compress(pictures, new)], [*compress(keys, new)])
        return [
            Room(
                key,
                self._batcher,
                deadline=request.deadline,
                priority=request.priority,
                count=picture.images,
                owed=owed,
            )
            for key, picture, owed in zip(keys, pictures, new, strict=True)
        ]

    def _promise(self, request: Request, pictures: Sequence[Picture], keys: Sequence[BatchKey]) -> None:
        """Reserve room for pictures, for all or none."""
        slow = sum([not picture.quick for picture in pictures])
        ready = request.arrived
        if slow:
            ready = self._decoders.ready_at(slow, priority=request.priority, deadline=request.deadline)
        counts: dict[BatchKey, int] = {}
        for key, picture in zip(keys, pictures, strict=True):
            counts[key] = counts.get(key, 0) + picture.images
        promised: list[tuple[BatchKey, int]] = []
        try:
            for key, count in counts.items():
                self._batcher.reserve(
                    key, count, ready=ready, deadline=request.deadline, priority=request.priority
                )
                promised.append((key, count))
        except RegardError:
            for key, count in promised:
                self._batcher.release(key, count, deadline=request.deadline, priority=request.priority)
            raise

    async def _extract_all(self, request: Request, images: int, rooms: Sequence[Room]) -> Sequence[Result]:
        """Send every picture on its way, and wait for all of them.

        Those with a short journey go to the device together, without a task each: many small ones in a message, or one
        in each of many messages, cost half as much so.
        """
        loop = asyncio.get_running_loop()
        answers = Answers(images, loop)
        expiry = loop.call_at(request.deadline, answers.expire, partial(self._late, request))
        entries: list[Entry] = []
        entering: list[Room] = []
        tasks: list[asyncio.Task[None]] = []
        start = 0
        try:
            for picture, room in zip(request.pictures, rooms, strict=True):
                give = partial(_give, answers, start)
                start += picture.images
                if self._journey.is_short(picture):
                    entries += self._journey.begin(request, picture, room, give)
                    entering.append(room)
                else:
                    way = self._journey.make(request, picture, room)
                    tasks.append(loop.create_task(_tell(way, give, answers.fail)))
            if entries:
                self._enter(entries, entering)
            return await answers.all()
        finally:
            expiry.cancel()
            if not answers.complete:
                for entry in entries:
                    self._batcher.discard(entry)  # whoever leaves early must not be computed for
                for task in tasks:
                    task.cancel()
                if tasks:  # nothing of the request is to be left when its caller hears of its end
                    await asyncio.wait(tasks)
            for room in rooms:
                room.give_back()

    def _late(self, request: Request, count: int) -> Result:
        waited = self._clock() - request.arrived
        return Result(DeadlineExpiredError(_TOO_LATE.format(waited)), Timings(total_s=waited), count)

    def _enter(self, entries: Sequence[Entry], rooms: Sequence[Room]) -> None:
        """Let entries take their rooms; those of pictures that could not be read were given back already."""
        self._batcher.submit(entries)
        for room in rooms:
            room.taken()

    def _count_each(self, model: str, results: Sequence[Result]) -> None:
        well = 0
        for result in results:
            if isinstance(result.outcome, RegardError):
                self._count_error(model, result.outcome, result.images)
                continue
            well += result.images - len(result.broken)
            for error in result.broken.values():
                self._count_error(model, error, 1)
        self._metrics.items.labels(model, "ok").inc(well)

    def _count_error(self, model: str, error: RegardError, times: int) -> None:
        self._metrics.items.labels(model, _outcome_label(error)).inc(times)
        if isinstance(error, NonFiniteOutputError):
            self._metrics.embeddings.nonfinite(model)

    def _count(self, request: Request, outcome: str) -> None:
        self._metrics.items.labels(request.model.name, outcome).inc(request.images)


def _give(answers: Answers, start: int, first: int, result: Result) -> None:
    """Give the result of pictures: `first` come before them of those that were gathered, `start` before all of these.

    What is never one picture's alone is the request's error if it is that of all.
    """
    if isinstance(result.outcome, RegardError):
        result.outcome.forget_origin()
        if type(result.outcome) in _WHOLE_REQUEST:
            answers.lose(start + first, result, result.outcome)
            return
    answers.give(start + first, result)


async def _tell(way: Awaitable[Result], give: Give, fail: Callable[[BaseException], None]) -> None:
    """Bring what a picture's way ends with to who waits for it; a bug, too."""
    try:
        give(0, await way)
    except Exception as error:  # noqa: BLE001 - raised again where the answers are waited for
        fail(error)


def _cost_class(request: Request) -> CostClass:
    outputs = request.model.outputs
    if any(outputs[name].kind in _MAPS for name in request.outputs):
        return "maps"
    return "pooled" if request.model.exact.isdisjoint(request.outputs) else "exact"


def _outcome_label(error: RegardError) -> str:
    """Return what became of a picture that has no features."""
    if isinstance(error, InvalidImageError):
        return "invalid"
    return _WHOLE_REQUEST.get(type(error), "failed")
