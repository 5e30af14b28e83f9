"""A request that was let in, until nothing of it is left.

    start ─→ its pictures on their ways ─→ the last answer, an error, the end of its time, or its caller's leaving
                                                └─→ what is still on its way is called back ─→ on_end, once

No coroutine waits for it: most requests have nothing to wait for but a batch, and a task for each would cost as much as
all the rest that Python does for one.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from regard_server.answers import Answers, Room
from regard_server.batcher import Batcher
from regard_server.errors import (
    DeadlineExpiredError,
    OverloadedError,
    RegardError,
    UnavailableError,
)
from regard_server.expiry import Expiry
from regard_server.outbox import Outbox
from regard_server.request import Picture, Request, Result, Timings
from regard_server.straight import Give, Straight
from regard_server.waiting import Entry

Outcome: TypeAlias = "Sequence[Result] | BaseException"
"""The results of all pictures, in order, or what became of the whole request."""

Travel: TypeAlias = (
    "Callable[[Request, Picture, Room, Give, Callable[[BaseException], None]], asyncio.Task[None]]"
)
"""Sends a picture that has to wait on its way and returns its task, see `journey.py`."""

# Errors that are never one picture's alone, and the outcome that all its pictures are counted as.
WHOLE_REQUEST: Final[dict[type[BaseException], str]] = {
    DeadlineExpiredError: "late",
    OverloadedError: "shed",
    UnavailableError: "failed",
}


@dataclass(frozen=True)
class Ways:
    """How pictures come to the device, the same for all requests.

    Attributes:
        straight: for those that have nothing to wait for.
        travel: for the others; for all where they may `share` answers.
    """

    straight: Straight
    travel: Travel
    share: bool
    batcher: Batcher
    outbox: Outbox
    expiry: Expiry
    clock: Callable[[], float]


class InFlight:
    """One request; used from the event loop.

    It is met when it is over, too, by a deadline that comes later, or a caller who leaves later; it holds nothing then.

    Args:
        request: what is asked; not kept.
        rooms: what was promised to its pictures, one for each.
        ways: where they go.
        on_end: called when nothing of it is left, with the results of all pictures in order, or the error of all.

    Attributes:
        over: whether its outcome is known; some of it may still be on its way.
        ended: whether nothing of it is left.
        entries: of the pictures that go straight.
    """

    __slots__ = (
        "_answers",
        "_arrived",
        "_entering",
        "_on_end",
        "_rooms",
        "_running",
        "_tasks",
        "_ways",
        "ended",
        "entries",
        "over",
    )

    def __init__(
        self,
        request: Request,
        rooms: Sequence[Room],
        ways: Ways,
        on_end: Callable[[Outcome], None],
    ) -> None:
        self._arrived = request.arrived
        self._rooms = rooms
        self._ways = ways
        self._on_end: Callable[[Outcome], None] | None = on_end
        self._answers = Answers(request.images)
        self._entering: list[Room] = []  # those of the entries
        self.entries: list[Entry] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._running = 0  # of the tasks
        self.over = False
        self.ended = False

    def start(self, request: Request) -> None:
        """Send every picture of the request on its way. Those that go straight enter a batch together."""
        self._ways.expiry.add(request.deadline, self)
        try:
            self._send(request)
        except Exception as error:  # noqa: BLE001 - told to who waits for the answers
            self._answers.fail(error)
        self._answers.when_over(self._finish)

    def expire(self) -> None:
        """Its time is over: what has no answer yet is late."""
        self._answers.expire(self._late)

    def leave(self) -> None:
        """Its caller has left: nobody is to compute for him."""
        self._answers.fail(asyncio.CancelledError())

    def submitted(self) -> None:
        """Take note that its entries wait for a device, which redeems what was promised to them."""
        for room in self._entering:
            room.taken()

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        self._answers.fail(error)

    def _send(self, request: Request) -> None:
        ways = self._ways
        start = 0
        for picture, room in zip(request.pictures, self._rooms, strict=True):
            give = partial(_give, self._answers, start)
            start += picture.images
            if picture.quick and not ways.share:
                entry = ways.straight.begin(request, picture, room, give)
                if entry is not None:
                    self.entries.append(entry)
                    self._entering.append(room)
            else:
                task = ways.travel(request, picture, room, give, self._answers.fail)
                self._tasks.append(task)
                self._running += 1
                task.add_done_callback(self._one_ended)
        if self.entries:
            ways.outbox.put(self)

    def _late(self, count: int) -> Result:
        waited = self._ways.clock() - self._arrived
        return Result(too_late(waited), Timings(total_s=waited), count)

    def _finish(self) -> None:
        """Call back what is still on its way."""
        self.over = True
        self._ways.expiry.left()
        if not self._answers.complete:
            for entry in self.entries:
                self._ways.batcher.discard(entry)
            if self._running:  # nothing is to be left when somebody hears of the end
                for task in self._tasks:
                    task.cancel()
                return
        self._end()

    def _one_ended(self, _: "asyncio.Task[None]") -> None:
        self._running -= 1
        if self.over and not self._running:
            self._end()

    def _end(self) -> None:
        if self._on_end is None:
            return
        on_end, self._on_end = self._on_end, None
        for room in self._rooms:
            room.give_back()
        self._rooms, self._entering, self.entries, self._tasks = (), [], [], []
        self.ended = True
        on_end(self._answers.outcome())


def too_late(waited_s: float) -> DeadlineExpiredError:
    """Return the error of whose time was over after so many seconds."""
    return DeadlineExpiredError(f"the deadline passed after {waited_s:.3f} s")


def _give(answers: Answers, start: int, first: int, result: Result) -> None:
    """Give the result of pictures: `first` come before them of those that were gathered, `start` before all of these.

    What is never one picture's alone is the request's error if it is that of all.
    """
    if isinstance(result.outcome, RegardError):
        result.outcome.forget_origin()
        if type(result.outcome) in WHOLE_REQUEST:
            answers.lose(start + first, result, result.outcome)
            return
    answers.give(start + first, result)
