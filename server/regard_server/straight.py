"""The straight way: pictures that need no reading go into a batch at once, and their result comes back by a callback.

    begin(picture) ─→ an entry, for the batcher ─→ … ─→ settle(outcomes): each to its owner ─→ give(first, result)

Neither waits, so there is no task for it: many small pictures in a message, or one in each of many messages, cost half
as much so. Who has to wait on the way goes as `journey.py` says.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from regard_server.answers import Room
from regard_server.batcher import Outcome
from regard_server.errors import RegardError
from regard_server.metrics import Metrics
from regard_server.request import Picture, Request, Result, Timings
from regard_server.to_all import to_all
from regard_server.waiting import Entry
from regard_server.work import Rows, Work

Give: TypeAlias = Callable[[int, Result], None]
"""Takes a result, and of how many pictures that were gathered with these it is not, because they come before them."""


class Straight:
    """The straight way; used from the event loop. See `Pipeline` for the arguments."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock

    def begin(self, request: Request, picture: Picture, room: Room, give: Give) -> Entry | None:
        """Read a picture here and now; return its entry, or none if it cannot be read.

        The entry is for the batcher, and takes the room then; `give` gets the result.
        """
        began = self._clock()
        try:
            pictures = picture.read()
        except RegardError as error:
            room.give_back()
            give(0, unreadable(request, error, began, self._clock()))
            return None
        decoded = self._clock()
        decode_s = (decoded - began) / picture.images
        self._metrics.decode_seconds.labels(request.model.name).observe(decode_s, picture.images)

        def answer(outcome: Outcome) -> None:
            give(outcome.first, to_result(request, outcome, decode_s, self._clock()))

        return enter(request, pictures, room, decoded, answer)


def enter(
    request: Request, pictures: Sequence[Any], room: Room, now: float, owner: Callable[[Outcome], None]
) -> Entry:
    """Return what waits for a device; `owner` gets what becomes of it."""
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


def to_result(request: Request, outcome: Outcome, decode_s: float, now: float) -> Result:
    """Return what became of pictures that a device was asked about."""
    timings = Timings(decode_s, outcome.queue_s, outcome.compute_s, now - request.arrived, outcome.batch_size)
    value = outcome.value
    if isinstance(value, RegardError):
        return Result(value, timings, outcome.size)
    if value.broken and outcome.size == 1:
        return Result(value.broken[0], timings)
    return Result(value.values, timings, outcome.size, value.broken)


def unreadable(request: Request, error: RegardError, began: float, now: float) -> Result:
    """Return what became of a picture that cannot be read."""
    return Result(error, Timings(decode_s=now - began, total_s=now - request.arrived))


def settle(outcomes: Sequence[Outcome], metrics: Metrics) -> None:
    """Answer the callers of a batch; runs on the event loop."""
    try:
        _observe(outcomes, metrics)
    finally:
        to_all(outcomes, _answer)


def _observe(outcomes: Sequence[Outcome], metrics: Metrics) -> None:
    first = outcomes[0]
    if not first.batch_size:  # it did not run, nor did the others with it
        return
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


def _answer(outcome: Outcome) -> None:
    # The scheduler may keep the entry's shell for a while, and the owner holds the request and all its results.
    owner, outcome.entry.owner = outcome.entry.owner, None
    owner(outcome)
