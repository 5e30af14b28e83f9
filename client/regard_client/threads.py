"""How threads share calls: leader and followers.

Of the callers whose images ride together, the one with the latest deadline makes the call in its own thread,
and the others wait for it. So there is no thread besides the callers', a lone caller talks to gRPC directly, and
the leader's deadline is the call's. `coalescing.py` decides who rides together; this carries it out.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from regard_client.coalescing import Coalescer, Coalescing, Ride, Rider
from regard_client.core import Core, Failed, Outcome, is_too_much, own
from regard_client.images import Picture
from regard_client.query import Query
from regard_client.results import Result
from regard_proto.v1 import features_pb2 as pb

Call: TypeAlias = Callable[[pb.ExtractRequest, float], pb.ExtractResponse]


@dataclass(eq=False, slots=True)
class _Caller(Rider):
    """A thread that waits: woken with its outcome, or with a ride to lead."""

    wake: threading.Event = field(default_factory=threading.Event)
    to_lead: Ride["_Caller"] | None = None
    outcome: Outcome | None = None


class SharedCalls:
    """Asks for one image at a time, from any number of threads.

    Args:
        core: what is common to both clients.
        limits: how much rides together.
        call: sends a request with so many seconds to go; raises `grpc.RpcError`.
    """

    def __init__(self, core: Core, limits: Coalescing, call: Call) -> None:
        self._core = core
        self._call = call
        self._lock = threading.Lock()
        self._coalescer: Coalescer[_Caller] = Coalescer(limits)

    def ask(self, query: Query, picture: Picture, timeout_s: float) -> Result:
        """Return one image's result.

        Raises:
            RegardError: the call failed, or had no answer within `timeout_s`.
        """
        now_s = time.monotonic()
        self._core.admit(query, timeout_s, now_s)
        caller = _Caller(query, picture, now_s + timeout_s)
        try:
            with self._lock:
                caller.to_lead = self._coalescer.board(caller, time.monotonic())
            while caller.outcome is None:
                if caller.to_lead is not None:
                    self._lead(caller, caller.to_lead)
                elif not self._wait(caller):
                    break
        except BaseException:  # Ctrl-C, for one: the others must not wait for a leader who is gone
            self._step_down(caller)
            raise
        if caller.outcome is None:
            raise self._core.late(timeout_s)
        return self._core.result(query, caller.outcome, timeout_s)

    def _wait(self, caller: _Caller) -> bool:
        """Wait for an outcome or a ride to lead; False if there was neither in time."""
        caller.wake.wait(caller.deadline_s - time.monotonic())
        with self._lock:
            caller.wake.clear()
            late = caller.outcome is None and caller.to_lead is None and time.monotonic() >= caller.deadline_s
            if late:
                self._coalescer.leave(caller)
        return not late

    def _lead(self, leader: _Caller, ride: Ride[_Caller]) -> None:
        """Send a ride, hand out what comes back, and see the next one off.

        An interrupt is the leader's alone. Whatever else goes wrong is the message's: sent again, it would again.
        """
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._send(ride)
        except Exception as bug:  # noqa: BLE001 - raised in each of those who wait, this one among them
            outcomes = [own(bug) for _ in ride.riders]
        with self._lock:  # in an order that leaves the rest to `_step_down`, should an interrupt cut it short
            for rider, outcome in zip(ride.riders, outcomes, strict=False):
                rider.outcome = outcome
                rider.wake.set()
            if outcomes:
                answered = isinstance(outcomes[0], Result)
                self._appoint(self._coalescer.arrive(ride, time.monotonic(), answered=answered))
            else:
                self._appoint(self._coalescer.turn_back(ride, time.monotonic()))
            if leader.to_lead is ride:  # and not the next one already
                leader.to_lead = None

    def _send(self, ride: Ride[_Caller]) -> Sequence[Outcome]:
        """Return what became of every rider; nothing if all go again in smaller messages."""
        request = self._core.request(ride.query, [rider.picture for rider in ride.riders])
        try:
            response = self._call(request, ride.deadline_s - time.monotonic())
        except grpc.RpcError as cause:
            if is_too_much(self._core.translate(cause)):
                with self._lock:
                    if self._coalescer.shrink(ride):
                        return []
            return [Failed(cause, request.request_id)] * len(ride.riders)
        return self._core.outcomes(ride.query, response, len(ride.riders))

    def _step_down(self, caller: _Caller) -> None:
        """Leave; if there was a ride to lead, its other riders go again, but for those who have their outcome."""
        with self._lock:
            self._coalescer.leave(caller)
            ride = caller.to_lead
            if ride is not None:
                ride.aboard -= {
                    rider for rider in ride.riders if rider is caller or rider.outcome is not None
                }
                self._appoint(self._coalescer.turn_back(ride, time.monotonic()))

    @staticmethod
    def _appoint(ride: Ride[_Caller] | None) -> None:
        """Wake the rider whose deadline is the ride's, to send it."""
        if ride is not None:
            leader = max(ride.riders, key=lambda rider: rider.deadline_s)
            leader.to_lead = ride
            leader.wake.set()
