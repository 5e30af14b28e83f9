"""The way in and the way out: admit ─→ promise room ─→ in flight ─→ count.

Nothing here waits; a request that may, for room or for another's answer, comes through `Pipeline.extract`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from regard_server.admission import Admission, Claim
from regard_server.answers import Room
from regard_server.batcher import Batcher
from regard_server.decoding import DecodePool
from regard_server.errors import DeadlineExpiredError, InvalidImageError, NonFiniteOutputError, RegardError
from regard_server.in_flight import WHOLE_REQUEST, InFlight, Outcome, Ways, too_late
from regard_server.metrics import Metrics
from regard_server.request import Request, Result
from regard_server.work import BatchKey, CostClass

_MAPS: Final = frozenset({"feature_map", "attention"})


class Intake:
    """Used from the event loop. See `Pipeline` for the arguments."""

    def __init__(
        self,
        *,
        admission: Admission,
        decoders: DecodePool,
        batcher: Batcher,
        ways: Ways,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._decoders = decoders
        self._batcher = batcher
        self._ways = ways
        self._metrics = metrics
        self._clock = clock

    def claim(self, request: Request) -> Claim:
        """Return what a request that has arrived needs.

        Raises:
            DeadlineExpiredError: its time is over.
        """
        size = sum([picture.size_bytes for picture in request.pictures])
        self._metrics.received_bytes.inc(size)
        if request.deadline <= self._clock():
            raise DeadlineExpiredError("the deadline had passed when the request arrived")
        return Claim(request.images, size, request.priority, request.deadline, request.client)

    def begin(self, request: Request, done: Callable[[Outcome], None]) -> InFlight:
        """Let a request in, and send its pictures on their ways; `done` hears of the end.

        Raises:
            DeadlineExpiredError: its time is over.
            OverloadedError: there is no room.
        """
        try:
            claim = self.claim(request)
            self._admission.take(claim)
            try:
                rooms = self.reserve(request)
            except BaseException:
                self._admission.give_back(claim)
                raise
        except RegardError as error:
            self.count(request, error)
            raise
        return self.send(request, claim, rooms, done)

    def reserve(self, request: Request, new: Sequence[bool] | None = None) -> list[Room]:
        """Promise every picture room at the device, or every new one, in the kind of batch that it will ride in.

        Raises:
            OverloadedError: there is none.
        """
        name, cost = request.model.name, _cost_class(request)
        # One network gives all vectors of tensors.
        of_tensors: CostClass = "pooled" if cost == "exact" else cost
        rooms: list[Room] = []
        counts: dict[BatchKey, int] = {}
        slow = 0
        for place, picture in enumerate(request.pictures):
            form = picture.form
            key = BatchKey(
                name, form, picture.height, picture.width, cost if form == "pixels" else of_tensors
            )
            room = Room(
                key,
                self._batcher,
                deadline=request.deadline,
                priority=request.priority,
                count=picture.images,
                owed=new is None or new[place],
            )
            rooms.append(room)
            if room.owed:
                counts[key] = counts.get(key, 0) + picture.images
                slow += not picture.quick
        self._promise(request, counts, slow)
        return rooms

    def send(
        self, request: Request, claim: Claim, rooms: Sequence[Room], done: Callable[[Outcome], None]
    ) -> InFlight:
        """Send the pictures of a request on their ways, for which there is room.

        `done` gets their results, to be counted when they are `answered`, or what is wrong, which is counted here.
        """

        def end(outcome: Outcome) -> None:
            self._admission.give_back(claim)
            if isinstance(outcome, BaseException):
                self.count(request, outcome)
                if isinstance(outcome, TimeoutError):
                    outcome = too_late(self._clock() - request.arrived)
            done(outcome)

        in_flight = InFlight(request, rooms, self._ways, end)
        in_flight.start(request)
        return in_flight

    def answered(self, request: Request, results: Sequence[Result], until: float) -> None:
        """Count what became of a request's pictures, when its answer is about to leave.

        Raises:
            DeadlineExpiredError: its caller waited until `until`, and is gone.
        """
        now = self._clock()
        if now > until:
            late = too_late(now - request.arrived)
            self.count(request, late)
            raise late
        self._count_each(request.model.name, results)

    def count(self, request: Request, error: BaseException) -> None:
        """Count all pictures of a request that comes to nothing."""
        outcome = WHOLE_REQUEST.get(type(error), "failed")
        if isinstance(error, TimeoutError):
            outcome = "late"
        elif isinstance(error, asyncio.CancelledError):
            outcome = "cancelled"
        self._metrics.items.labels(request.model.name, outcome).inc(request.images)

    def _promise(self, request: Request, counts: dict[BatchKey, int], slow: int) -> None:
        """Reserve room for so many images of each kind, for all or none; `slow` pictures are to be read before."""
        ready = request.arrived
        if slow:
            ready = self._decoders.ready_at(slow, priority=request.priority, deadline=request.deadline)
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


def _cost_class(request: Request) -> CostClass:
    outputs = request.model.outputs
    if not _MAPS.isdisjoint([outputs[name].kind for name in request.outputs]):
        return "maps"
    return "pooled" if request.model.exact.isdisjoint(request.outputs) else "exact"


def _outcome_label(error: RegardError) -> str:
    """Return what became of a picture that has no features."""
    if isinstance(error, InvalidImageError):
        return "invalid"
    return WHOLE_REQUEST.get(type(error), "failed")
