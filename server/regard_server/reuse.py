"""Identical pictures cost one forward: those in flight share it, and a cache remembers the last ones.

    key = hash(content) + model + outputs
    get(key, compute) ─→ in the cache?      its answer
                      ─→ being computed?    wait for that answer; if its caller leaves, compute in his place
                      ─→ else               compute, tell those who wait, remember

A picture that is computed for somebody less urgent is computed once more, and those who come after wait for that. What
is wrong with a picture is wrong with all that are like it; it is shared, but not remembered.

Off unless asked for: where pictures are rarely the same, hashing them is a cost without a gain. Content-addressed,
so a changed picture is another key; a model never changes while a server runs.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from regard_server.errors import InvalidImageError, NonFiniteOutputError, OutOfMemoryError, RegardError

Outputs: TypeAlias = dict[str, npt.NDArray[np.float32]]
Answer: TypeAlias = Outputs | RegardError
Source = Literal["cache", "shared", "computed"]

# Errors that whoever sends the same picture would get as well.
_OF_THE_PICTURE: Final = (InvalidImageError, NonFiniteOutputError, OutOfMemoryError)
# Who has less than this share of the time of him whom he would wait for, does not: that one may be served too late for
# him. Deadlines of callers who give the same time differ by less.
_AS_HASTY: Final = 0.5


@dataclass(frozen=True, slots=True)
class ContentKey:
    """What makes two answers the same."""

    content: bytes
    model: str
    outputs: tuple[str, ...]


def content_key(content: Callable[[], Sequence[bytes]], model: str, outputs: tuple[str, ...]) -> ContentKey:
    """Hash a picture's form and bytes."""
    digest = hashlib.blake2b(digest_size=20)
    for part in content():
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return ContentKey(digest.digest(), model, outputs)


class Urgency(NamedTuple):
    """How urgently somebody needs an answer: his class, 0 first, when he came, and his deadline."""

    priority: int
    arrived: float
    deadline: float

    def suffices(self, other: "Urgency") -> bool:
        """Tell whether what is computed so urgently need not be computed once more for another, who comes now."""
        if self.priority != other.priority:
            return self.priority < other.priority
        return other.deadline - other.arrived >= _AS_HASTY * (self.deadline - other.arrived)


class _Flight(NamedTuple):
    """A picture that is being computed, how urgently, and what comes of it; None: nothing that is of use to others."""

    urgency: Urgency
    answer: asyncio.Future[Answer | None]


class Reuse:
    """Answers in flight and in memory. Used from one event loop.

    Args:
        max_bytes: of remembered outputs; 0 remembers nothing, and only those in flight share.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._remembered: OrderedDict[Hashable, Outputs] = OrderedDict()
        self._in_flight: dict[Hashable, _Flight] = {}
        self.bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether no answer is remembered, nor on its way."""
        return not self._remembered and not self._in_flight

    def knows(self, key: Hashable, urgency: Urgency) -> bool:
        """Tell whether `get` would compute nothing. That counts as a use: whoever asks is about to `get` it."""
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return True
        return self._find(key, urgency) is not None

    async def get(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[Answer]],
        urgency: Urgency,
        *,
        on_follow: Callable[[], None] = lambda: None,
    ) -> tuple[Answer, Source]:
        """Return the answer of a key, and where it came from; raises what `compute` raises, to its own caller only.

        Whoever waits for another's computation, and is told so by `on_follow`, computes for himself if that fails
        through no fault of the picture: it may have been the other's deadline, say.
        """
        while True:
            remembered = self._remembered.get(key)
            if remembered is not None:
                self._remembered.move_to_end(key)
                return remembered, "cache"
            flight = self._find(key, urgency)
            if flight is None:
                return await self._lead(key, compute, urgency), "computed"
            on_follow()
            shared = await asyncio.shield(flight.answer)
            if shared is not None:
                return shared, "shared"

    def _find(self, key: Hashable, urgency: Urgency) -> _Flight | None:
        """Return who computes a key urgently enough."""
        flight = self._in_flight.get(key)
        return flight if flight and flight.urgency.suffices(urgency) else None

    async def _lead(
        self, key: Hashable, compute: Callable[[], Awaitable[Answer]], urgency: Urgency
    ) -> Answer:
        flight = self._in_flight[key] = _Flight(urgency, asyncio.get_running_loop().create_future())
        shared: Answer | None = None
        try:
            found = await compute()
            if not isinstance(found, RegardError):
                shared = found
                self._remember(key, found)
            elif isinstance(found, _OF_THE_PICTURE):
                shared = found
            return found
        finally:
            if self._in_flight.get(key) is flight:  # and not somebody who was more urgent
                del self._in_flight[key]
            flight.answer.set_result(shared)

    def _remember(self, key: Hashable, outputs: Outputs) -> None:
        size = _size(outputs)
        if size > self._max_bytes or key in self._remembered:
            return
        # Rows are views of a whole batch's outputs; a copy lets the rest of the batch go.
        self._remembered[key] = {name: values.copy() for name, values in outputs.items()}
        self.bytes += size
        while self.bytes > self._max_bytes:
            _, oldest = self._remembered.popitem(last=False)
            self.bytes -= _size(oldest)


def _size(outputs: Outputs) -> int:
    return sum(values.nbytes for values in outputs.values())
