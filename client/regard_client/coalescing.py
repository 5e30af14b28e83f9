"""Which images ride together: concurrent callers share messages, and nobody waits for company.

A call that finds fewer than `in_flight` messages on their way departs at once, alone. One that finds them all
on their way waits, and goes with everybody else who asks the same when one of them is back:

    caller 1  ──board──▶ Ride(1) ════════════ arrive ─▶
    caller 2  ──board──▶ Ride(2) ═════════════════════════ arrive ─▶
    caller 3     └─board, waits ─────────────┐
    caller 4          └─board, waits ────────┴▶ Ride(3, 4) ═══════ …

There is no timer: the message that is away is the clock (the same late binding as the server's batches).
While answers are quick, a message takes no more than its share of all callers, waiting and away, so that messages
keep out of step: all callers in one message would have client and server wait for each other in turns, and two
halves keep both at work.

    in one:      client ██      ██      ██            in two:    client ██▒▒██▒▒██▒▒
                 server   ██████  ██████                         server   ███▒▒▒███▒▒▒

Sharing saves the cost of messages, a fraction of a millisecond each; where answers take long for other reasons
(a large network, a distant server), waiting for one costs more than it saves and starves the server's batches.
So slow answers allow more messages in flight: one for every `spacing_s` that they take, which holds the cost of
messages to a small part of one core whatever the latency.

This is the whole of the policy, without channel, thread or event loop; `threads.py` and `tasks.py` carry it
out. It is not thread-safe: the shell locks.
"""

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from regard_client.images import Picture
from regard_client.query import Query

_MiB: Final = 1 << 20
# Of the newest latency in the running mean: about the last five answers count.
_LATENCY_WEIGHT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Coalescing:
    """How much rides together.

    Attributes:
        max_images: images a message, at most.
        max_bytes: bytes of images a message, at most; one image alone may be larger.
        min_share: images that a message may take whatever its share is: smaller ones gain little for what they cost.
        in_flight: messages with the same parameters that are on their way at once, while answers are quick.
        spacing_s: how much of an answer's latency allows one message more; infinity for never.

    Raises:
        ValueError: one of them is not positive.
    """

    max_images: int = 32
    max_bytes: int = 8 * _MiB
    # Measured where nothing is computed, all callers in one message and in two: 16 callers 7,900 and 12,700 images/s,
    # 32 callers 10,300 and 19,700. Two of 4 gave 5,600 beside 5,100, which is less than runs differ by, and every
    # message costs CPU: already two of 8 took a third more an image than one of 16.
    min_share: int = 8
    in_flight: int = 2
    # Measured against a device of 20 + 4 n ms with 8 callers: 85 images/s with two messages in flight, 107 with
    # one for every 2 ms, 109 without sharing; of 2 + 0.1 n ms with 64 callers: 4,400, 4,000 and 1,500.
    spacing_s: float = 0.002

    def __post_init__(self) -> None:
        if min(self.max_images, self.max_bytes, self.min_share, self.in_flight) < 1 or self.spacing_s <= 0:
            raise ValueError(f"{self} must have no limit below 1, and a positive spacing")


@dataclass(eq=False, slots=True)
class Rider:
    """One caller's image, from when it asks until it has its answer or gives up."""

    query: Query
    picture: Picture
    deadline_s: float


R = TypeVar("R", bound=Rider)


@dataclass(eq=False, slots=True)
class Ride(Generic[R]):
    """One message: its riders in the order of its images, and those who still wait for it."""

    query: Query
    riders: tuple[R, ...]
    departed_s: float
    aboard: set[R] = field(init=False)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.aboard = set(self.riders)

    @property
    def deadline_s(self) -> float:
        """The latest of its riders' deadlines; each of them minds its own."""
        return max(rider.deadline_s for rider in self.riders)


@dataclass(slots=True)
class _Lane(Generic[R]):
    """All that asks the same: who waits, oldest first, and how many messages are away with how many riders.

    `callers` is how many there were of both lately: those who were just answered may be about to ask again.
    """

    waiting: dict[R, None] = field(default_factory=dict)
    in_flight: int = 0
    away: int = 0
    callers: int = 0


class Coalescer(Generic[R]):
    """Decides who departs when. Whoever is handed a ride must send it and report `arrive` or `turn_back`."""

    def __init__(self, limits: Coalescing) -> None:
        self._limits = limits
        self._max_images = limits.max_images
        self._latency_s = 0.0
        self._lanes: dict[Query, _Lane[R]] = {}
        self._riding: dict[R, Ride[R]] = {}

    def board(self, rider: R, now_s: float) -> Ride[R] | None:
        """Take a new rider; return the ride that departs with it at once, if there is room."""
        self.join(rider)
        return self.depart(rider.query, now_s)

    def join(self, rider: R) -> None:
        """Take a new rider, who departs with the next ride."""
        lane = self._lanes.get(rider.query)
        if lane is None:
            lane = self._lanes[rider.query] = _Lane()
        lane.waiting[rider] = None

    def depart(self, query: Query, now_s: float) -> Ride[R] | None:
        """Return the next ride of those who ask the same, if anybody waits and there is room."""
        return self._depart(query, now_s) if query in self._lanes else None

    def arrive(self, ride: Ride[R], now_s: float, *, answered: bool = True) -> Ride[R] | None:
        """Note that a ride is over; return the next one of its lane, if anybody waits."""
        self.land(ride, now_s, answered=answered)
        return self.depart(ride.query, now_s)

    def land(self, ride: Ride[R], now_s: float, *, answered: bool = True) -> None:
        """Note that a ride is over, with an answer or without; whoever waits may `depart`.

        A refusal comes at once and says nothing of how long answers take: it would let fewer messages go to a server
        that has too much to do, and their riders would wait here to be refused.
        """
        if answered:
            self._latency_s += _LATENCY_WEIGHT * (now_s - ride.departed_s - self._latency_s)
        self._clear(ride)

    def turn_back(self, ride: Ride[R], now_s: float) -> Ride[R] | None:
        """Note that a ride was given up unanswered; its riders go again, ahead of those who came later."""
        aboard = [rider for rider in ride.riders if rider in ride.aboard]
        lane = self._clear(ride)
        lane.waiting = dict.fromkeys([*aboard, *lane.waiting])
        return self._depart(ride.query, now_s)

    def shrink(self, ride: Ride[R]) -> bool:
        """Note that a message was too much for the server; tell whether its riders may go again in smaller ones.

        The new limit holds from now on: a server's limits do not change under way.
        """
        if len(ride.riders) == 1:
            return False
        self._max_images = min(self._max_images, len(ride.riders) // 2)
        return True

    def leave(self, rider: R) -> Ride[R] | None:
        """Let a rider go, answered or not; return its ride if nobody waits for that any more."""
        lane = self._lanes.get(rider.query)
        if lane is not None and rider in lane.waiting:
            del lane.waiting[rider]
            return None
        ride = self._riding.pop(rider, None)
        if ride is None:
            return None
        ride.aboard.discard(rider)
        return None if ride.aboard else ride

    def _clear(self, ride: Ride[R]) -> _Lane[R]:
        """Take a ride out of its lane, once: whoever was interrupted in it may come again."""
        lane, riders = self._lanes.setdefault(ride.query, _Lane()), len(ride.riders)
        if not ride.is_over:
            ride.is_over = True
            lane.in_flight -= 1
            lane.away -= riders
            for rider in ride.riders:
                self._riding.pop(rider, None)
        return lane

    def _depart(self, query: Query, now_s: float) -> Ride[R] | None:
        lane = self._lanes[query]
        riders = self._next(lane, now_s) if lane.in_flight < self._allowed() else ()
        if not riders:
            if not lane.in_flight and not lane.waiting:
                del self._lanes[query]
            return None
        ride = Ride(query, riders, now_s)
        lane.in_flight += 1
        lane.away += len(riders)
        self._riding.update(dict.fromkeys(riders, ride))
        return ride

    def _allowed(self) -> int:
        return max(self._limits.in_flight, int(self._latency_s / self._limits.spacing_s))

    def _most(self, lane: _Lane[R]) -> int:
        """Return how many images the next message may take."""
        lane.callers = max(len(lane.waiting) + lane.away, lane.callers - 1)
        # Answers that are slow are so for a network's sake, whose batches had better be large.
        if self._allowed() > self._limits.in_flight:
            return self._max_images
        share = -(-lane.callers // self._limits.in_flight)
        return min(self._max_images, max(self._limits.min_share, share))

    def _next(self, lane: _Lane[R], now_s: float) -> tuple[R, ...]:
        riders: list[R] = []
        expired: list[R] = []  # too late to go: they are about to give up by themselves
        room = self._limits.max_bytes
        most = self._most(lane)
        for rider in lane.waiting:
            if rider.deadline_s <= now_s:
                expired.append(rider)
                continue
            nbytes = rider.picture.nbytes
            if riders and (len(riders) == most or nbytes > room):
                break
            riders.append(rider)
            room -= nbytes
        for rider in (*riders, *expired):
            del lane.waiting[rider]
        return tuple(riders)
