"""How asyncio tasks share calls: every message is a task of its own, and its riders wait for their futures.

A caller that is cancelled or late leaves its ride without stopping it; only when nobody waits for a message any
more is its call cancelled. `coalescing.py` decides who rides together; this carries it out.

Rides depart when every task that is ready has had its turn, a few microseconds later: the answers of one batch wake
many tasks at once, and those that ask again do so together. Each alone they would come to the server one by one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from regard_client.coalescing import Coalescer, Coalescing, Ride, Rider
from regard_client.core import Core, Failed, Outcome, is_too_much, own
from regard_client.deadlines import Deadlines
from regard_client.images import Picture
from regard_client.query import Query
from regard_client.results import Result
from regard_proto.v1 import features_pb2 as pb

Call: TypeAlias = Callable[[pb.ExtractRequest, float], Awaitable[pb.ExtractResponse]]


@dataclass(eq=False, slots=True)
class _Caller(Rider):
    """A task that waits; with None it is told that its time is over."""

    outcome: asyncio.Future[Outcome | None]


class SharedCalls:
    """Asks for one image at a time, from any number of tasks of one loop.

    Args:
        core: what is common to both clients.
        limits: how much rides together.
        call: sends a request with so many seconds to go; raises `grpc.RpcError`.
    """

    def __init__(self, core: Core, limits: Coalescing, call: Call) -> None:
        self._core = core
        self._call = call
        self._coalescer: Coalescer[_Caller] = Coalescer(limits)
        self._away: dict[Ride[_Caller], asyncio.Task[None]] = {}
        self._deadlines = Deadlines()
        self._departing: set[Query] = set()

    async def ask(self, query: Query, picture: Picture, timeout_s: float) -> Result:
        """Return one image's result.

        Raises:
            RegardError: the call failed, or had no answer within `timeout_s`.
        """
        now_s = time.monotonic()
        self._core.admit(query, timeout_s, now_s)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome | None] = loop.create_future()
        caller = _Caller(query, picture, now_s + timeout_s, answer)
        self._coalescer.join(caller)
        self._depart_soon(query, loop)
        self._deadlines.add(answer, timeout_s, loop)
        try:
            outcome = await answer
        except BaseException:
            self._leave(caller)
            raise
        finally:
            self._deadlines.remove(answer, timeout_s)
        if outcome is None:
            self._leave(caller)
            raise self._core.late(timeout_s)
        return self._core.result(query, outcome, timeout_s)  # the ride is over, and nobody need leave it

    def _leave(self, caller: _Caller) -> None:
        """Let a caller go who has no answer."""
        deserted = self._coalescer.leave(caller)
        if deserted is not None:
            self._away[deserted].cancel()

    def _depart_soon(self, query: Query, loop: asyncio.AbstractEventLoop) -> None:
        """Let rides go when all tasks that are ready now have had their turn."""
        if query not in self._departing:
            self._departing.add(query)
            loop.call_soon(self._depart, query)

    def _depart(self, query: Query) -> None:
        self._departing.discard(query)
        now_s = time.monotonic()
        while (ride := self._coalescer.depart(query, now_s)) is not None:
            self._send_off(ride)

    def _send_off(self, ride: Ride[_Caller] | None) -> None:
        if ride is not None:
            carrying = asyncio.get_running_loop().create_task(self._carry(ride))
            self._away[ride] = carrying
            carrying.add_done_callback(lambda task: self._call_off(ride, task))

    def _call_off(self, ride: Ride[_Caller], task: asyncio.Task[None]) -> None:
        """Note that a ride was cancelled: nobody waits any more, or the client is closed.

        Here, not in the task: one that is cancelled before its first step never comes to an `except`.
        """
        if task.cancelled():
            self._fail(ride, [self._core.closed() for _ in ride.riders])

    async def _carry(self, ride: Ride[_Caller]) -> None:
        """Send a ride, see the next one off, and hand out what came back."""
        try:
            outcomes = await self._send(ride)
        except Exception as bug:  # noqa: BLE001 - it belongs to those who wait, not to a task that nobody looks at
            self._fail(ride, [own(bug) for _ in ride.riders])
            return
        del self._away[ride]
        now_s = time.monotonic()
        if not outcomes:
            self._send_off(self._coalescer.turn_back(ride, now_s))
            return
        for rider, outcome in zip(ride.riders, outcomes, strict=True):
            if not rider.outcome.done():
                rider.outcome.set_result(outcome)
        # After the answers: whoever asks again at once goes with those who wait.
        self._coalescer.land(ride, now_s, answered=not isinstance(outcomes[0], Failed))
        self._depart_soon(ride.query, asyncio.get_running_loop())

    def _fail(self, ride: Ride[_Caller], errors: Sequence[Exception]) -> None:
        del self._away[ride]
        self._send_off(self._coalescer.arrive(ride, time.monotonic(), answered=False))
        for rider, error in zip(ride.riders, errors, strict=True):
            if rider in ride.aboard and not rider.outcome.done():
                rider.outcome.set_exception(error)

    async def _send(self, ride: Ride[_Caller]) -> Sequence[Outcome]:
        """Return what became of every rider; nothing if all go again in smaller messages."""
        request = self._core.request(ride.query, [rider.picture for rider in ride.riders])
        try:
            response = await self._call(request, ride.deadline_s - time.monotonic())
        except grpc.RpcError as cause:
            if is_too_much(self._core.translate(cause)) and self._coalescer.shrink(ride):
                return []
            return [Failed(cause, request.request_id)] * len(ride.riders)
        return self._core.outcomes(ride.query, response, len(ride.riders))
