"""Identical pictures cost one forward: those in flight share it, and a cache remembers the last ones.

    key = hash(content) + model + outputs
    get(key, compute) ─→ in the cache?      its answer
                      ─→ being computed?    wait for that answer; if its caller leaves, compute in his place
                      ─→ else               compute, tell those who wait, remember

Off unless asked for: where pictures are rarely the same, hashing them is a cost without a gain. Content-addressed,
so a changed picture is another key; a model never changes while a server runs.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Outputs = dict[str, npt.NDArray[np.float32]]
Source = Literal["cache", "shared", "computed"]


@dataclass(frozen=True, slots=True)
class ContentKey:
    """What makes two answers the same."""

    content: bytes
    model: str
    outputs: tuple[str, ...]


def content_key(parts: Sequence[bytes], model: str, outputs: tuple[str, ...]) -> ContentKey:
    """Hash a picture's form and bytes."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return ContentKey(digest.digest(), model, outputs)


class Reuse:
    """Answers in flight and in memory. Used from one event loop.

    Args:
        max_bytes: of remembered outputs; 0 remembers nothing, and only those in flight share.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._remembered: OrderedDict[Hashable, Outputs] = OrderedDict()
        self._in_flight: dict[Hashable, asyncio.Future[Outputs | None]] = {}
        self.bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered."""
        return not self._remembered

    def remembers(self, key: Hashable) -> bool:
        """Tell whether the outputs of a key are there. That counts as a use: whoever asks is about to `get` them."""
        if key not in self._remembered:
            return False
        self._remembered.move_to_end(key)
        return True

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[Outputs]]) -> tuple[Outputs, Source]:
        """Return the outputs of a key, and where they came from; raises what `compute` raises, to its own caller only.

        Whoever waits for another's computation that failed computes for himself: a fault may have been the other's
        (his deadline, say), and one that is the picture's own is found again.
        """
        while True:
            remembered = self._remembered.get(key)
            if remembered is not None:
                self._remembered.move_to_end(key)
                return remembered, "cache"
            running = self._in_flight.get(key)
            if running is None:
                return await self._lead(key, compute), "computed"
            shared = await asyncio.shield(running)
            if shared is not None:
                return shared, "shared"

    async def _lead(self, key: Hashable, compute: Callable[[], Awaitable[Outputs]]) -> Outputs:
        answer: asyncio.Future[Outputs | None] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = answer
        found: Outputs | None = None
        try:
            found = await compute()
            self._remember(key, found)
            return found
        finally:
            del self._in_flight[key]
            answer.set_result(found)

    def _remember(self, key: Hashable, outputs: Outputs) -> None:
        size = _size(outputs)
        if size > self._max_bytes:
            return
        # Rows are views of a whole batch's outputs; a copy lets the rest of the batch go.
        self._remembered[key] = {name: values.copy() for name, values in outputs.items()}
        self.bytes += size
        while self.bytes > self._max_bytes:
            _, oldest = self._remembered.popitem(last=False)
            self.bytes -= _size(oldest)


def _size(outputs: Outputs) -> int:
    return sum(values.nbytes for values in outputs.values())
