"""The way of a request, once, for every protocol: admit ─→ decode ─→ batch ─→ run ─→ split.

Servicers translate their messages into a `Request`, and its `Result`s back; what stands here knows no wire. It runs
on the event loop: decoding happens in a pool of threads, running in the device's thread.

    extract(request)       in a coroutine of the caller's, who may wait for room, or for another's answer
    begin(request, done)   without one: most requests wait for nothing but a batch
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from regard_server.admission import Admission, Claim
from regard_server.answers import Room
from regard_server.batcher import Batcher
from regard_server.decoding import DecodePool
from regard_server.errors import OverloadedError
from regard_server.expiry import Expiry
from regard_server.in_flight import Outcome, Ways, too_late
from regard_server.intake import Intake
from regard_server.journey import Journeys
from regard_server.metrics import Metrics
from regard_server.outbox import Outbox
from regard_server.request import Request, Result
from regard_server.reuse import Reuse
from regard_server.straight import Straight


class Pipeline:
    """The steps in order, with what they share. Construct and use it in the event loop that it is to run in.

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
        self._loop = asyncio.get_running_loop()
        self._journeys = Journeys(
            decoders=decoders, batcher=batcher, metrics=metrics, clock=clock, reuse=reuse
        )
        self._ways = Ways(
            straight=Straight(metrics, clock),
            travel=self._journeys.begin,
            share=reuse is not None,
            batcher=batcher,
            outbox=Outbox(batcher.submit, self._loop),
            expiry=Expiry(self._loop),
            clock=clock,
        )
        self._intake = Intake(
            admission=admission,
            decoders=decoders,
            batcher=batcher,
            ways=self._ways,
            metrics=metrics,
            clock=clock,
        )
        self._admission = admission
        self._clock = clock
        self.answered = self._intake.answered

    def begin(self, request: Request, done: Callable[[Outcome], None]) -> Callable[[], object]:
        """Do what `extract` does, without a coroutine; return what is to be called when the caller leaves.

        `done` gets the results, or the error that `extract` would raise: CancelledError when the caller has left. A
        patient request is not for here.

        Raises:
            DeadlineExpiredError, OverloadedError: as `extract`.
        """
        if not self._ways.share:
            return self._intake.begin(request, done).leave
        task = self._loop.create_task(self.extract(request))
        task.add_done_callback(partial(_tell, done))
        return partial(self._loop.call_soon, task.cancel)  # before its first step it would count nothing

    async def extract(self, request: Request) -> Sequence[Result]:
        """Return the results of all pictures, in order; one result may be of several.

        They are counted when they are `answered`; what is raised is counted here.

        Raises:
            DeadlineExpiredError: the deadline passed before any was answered.
            OverloadedError: there is no room.
            UnavailableError: the server is shutting down, or its device failed.
        """
        try:
            claim = await self._admit(request)
            try:
                request, rooms = await self._reserve(request)
            except BaseException:
                self._admission.give_back(claim)
                raise
        except TimeoutError as error:
            self._intake.count(request, error)
            raise too_late(self._clock() - request.arrived) from error
        except BaseException as error:
            self._intake.count(request, error)
            raise
        return await self._send(request, claim, rooms)

    async def _admit(self, request: Request) -> Claim:
        claim = self._intake.claim(request)
        if request.patient:
            async with asyncio.timeout_at(request.deadline):
                await self._admission.wait(claim)
        else:
            self._admission.take(claim)
        return claim

    async def _reserve(self, request: Request) -> tuple[Request, list[Room]]:
        """Promise room to all pictures.

        If there is not so much, then to those only whose answers are neither there nor on their way: others need none.
        """
        try:
            return request, self._intake.reserve(request)
        except OverloadedError:
            if self._journeys.know_nothing:
                raise
        async with asyncio.timeout_at(request.deadline):
            request = await self._journeys.identify(request)
        new = [not self._journeys.is_known(request, picture) for picture in request.pictures]
        return request, self._intake.reserve(request, new)

    async def _send(self, request: Request, claim: Claim, rooms: Sequence[Room]) -> Sequence[Result]:
        """Send every picture on its way, and wait for all of them."""
        end = _End(self._loop)
        in_flight = self._intake.send(request, claim, rooms, end)
        try:
            outcome = await end.told
        except asyncio.CancelledError as error:
            if not in_flight.ended:
                end.told = self._loop.create_future()  # the one before was cancelled
                in_flight.leave()
                await end.told  # nothing of the request is to be left when its caller hears of its end
            if end.well:
                self._intake.count(request, error)  # what was to be counted when it is answered
            raise
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del end.told, outcome  # its frames hold this one, and those that told of the end
        return outcome


class _End:
    """Tells a coroutine of a request's end, and whether it was an answer; whoever is leaving hears of that only."""

    __slots__ = ("told", "well")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.told: asyncio.Future[Outcome] = loop.create_future()
        self.well = False

    def __call__(self, outcome: Outcome) -> None:
        self.well = not isinstance(outcome, BaseException)
        if not self.told.done():
            self.told.set_result(outcome)


def _tell(done: Callable[[Outcome], None], task: "asyncio.Task[Sequence[Result]]") -> None:
    if task.cancelled():
        done(asyncio.CancelledError())
    else:
        done(task.exception() or task.result())
