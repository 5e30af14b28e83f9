"""Admit: how much may be inside the server at once, counted in images and in bytes.

Everything behind this door is bounded by it: the decode pool's backlog, the queue, and the memory that both hold. What
does not fit is refused at once, with the time after which to try again; a stream, whose sender is held back by flow
control, waits instead.

    take ─→ room for it, and nobody who goes before it? ─→ inside ─→ give back ─┐
    wait ─→ line: class, deadline, arrival; its first ───→ inside ─→ give back ─┤
                                   └──── what becomes free is the first's ──────┘

- Nobody in line passes its first, however small he is.
- The last tenth is left to interactive callers who do not wait: neither bulk nor streams can keep them out.
- Who does not wait passes the line where he fits, unless he is less urgent than its first. Nine images may so for each
  of the first's; then he is due, and what becomes free is kept for him, of the last tenth, too.
- Whose own share is used up waits beside the line, in nobody's way.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from regard_server.errors import OverloadedError
from regard_server.line import Line
from regard_server.turns import FAIR_SHARE

# Long enough that a refused caller does not come straight back, short beside any useful deadline.
RETRY_AFTER_S = 0.1
# One in so many permits is an interactive caller's who does not wait.
_KEPT_SHARE: Final = 10


class Claim(NamedTuple):
    """The room that a request needs, and how urgent it is.

    Attributes:
        images: how many.
        size_bytes: theirs.
        priority: the class, 0 (interactive) first.
        deadline: until when it is of use.
        client: whose it is, where that is minded.
    """

    images: int
    size_bytes: int
    priority: int = 0
    deadline: float = math.inf
    client: str = ""


class _Room(NamedTuple):
    """So much may be inside."""

    images: int
    size_bytes: int


_Waiter = tuple[Claim, asyncio.Future[None]]
"""What somebody waits for, and what tells him that he has it."""


class Admission:
    """Permits for images and a budget of bytes; used from the event loop only.

    A request larger than the whole is let in alone rather than never.

    Args:
        max_images: images inside, of everybody.
        max_bytes: their bytes.
        max_client_images: images of one caller, inside and in line; 0: as many as there is room for.
    """

    def __init__(self, *, max_images: int, max_bytes: int, max_client_images: int = 0) -> None:
        self._max_client_images = max_client_images
        self._by_client: Counter[str] = Counter()
        self._whole = _Room(max_images, max_bytes)
        self._common = _Room(max_images - max_images // _KEPT_SHARE, max_bytes - max_bytes // _KEPT_SHARE)
        self.images = 0
        self.bytes = 0
        self._line: Line[_Waiter] = Line()
        self._aside: dict[str, Line[_Waiter]] = {}  # those whose share is used up, by client
        self._passed = 0  # images that were let in past the line's first

    def take(self, claim: Claim) -> None:
        """Hold room for a request now, until `give_back`.

        Raises:
            OverloadedError: there is none, or others wait for it.
        """
        room = self._common if claim.priority else self._whole
        if self._lacks_images(claim, room):
            raise OverloadedError(
                f"{self.images} images are being served and {claim.images} more were sent; "
                f"the limit is {room.images} at once. Try again, or add replicas",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._lacks_bytes(claim, room):
            raise OverloadedError(
                f"{self.bytes} bytes are being served and {claim.size_bytes} more were sent; "
                f"the limit is {room.size_bytes} at once. Try again, or add replicas",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._lacks_share(claim):
            raise OverloadedError(
                f"{self._by_client[claim.client]} images of yours are being served and {claim.images} more were "
                f"sent; the limit for one caller is {self._max_client_images} at once. "
                "Try again when they are answered",
                retry_after_s=RETRY_AFTER_S,
            )
        if first := self._line.first():
            self._pass(claim, first[-1][0])
        self._count_share(claim)
        self._let_in(claim)
        if first:
            self._admit()  # he may be due now

    async def wait(self, claim: Claim) -> None:
        """Hold room for a request as soon as it is its turn, until `give_back`."""
        if self._aside.get(claim.client) or self._lacks_share(claim):
            aside = self._aside.setdefault(claim.client, Line())
            try:
                await self._stand(aside, claim, self._drop_share)
            except BaseException:
                self._call_aside(claim.client)  # he may have been too large for what is left, and first
                raise
        else:
            self._count_share(claim)
        try:
            if self._line or not self._has_room(claim, self._common):
                if not self._line:
                    self._passed = 0
                await self._stand(self._line, claim, self._let_out)
            else:
                self._let_in(claim)
        except BaseException:
            self._drop_share(claim)
            self._admit()
            raise

    def give_back(self, claim: Claim) -> None:
        """Let others have the room of a request that was served, or failed."""
        self._let_out(claim)
        self._drop_share(claim)
        if self._line:
            self._admit()

    async def _stand(self, line: Line[_Waiter], claim: Claim, undo: Callable[[Claim], None]) -> None:
        """Wait in a line until it is one's turn; `undo` that where he who waits has left by then."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = line.join(claim.priority, claim.deadline, (claim, turn))
        self._admit()  # it may be at once, before somebody who needs more
        try:
            await turn
        except BaseException:
            line.leave(place)
            if turn.done() and not turn.cancelled():
                undo(claim)
            raise

    def _admit(self) -> None:
        """Let those in whose turn it is, as far as there is room."""
        while first := self._line.first():
            claim, turn = first[-1]
            if turn.done():  # he left, and will know it in a moment
                self._line.leave(first)
                continue
            if not self._has_room(claim, self._whole if self._is_due(claim) else self._common):
                return
            self._line.serve(first)
            self._passed = 0
            self._let_in(claim)
            turn.set_result(None)

    def _pass(self, claim: Claim, first: Claim) -> None:
        """Let a request pass the first in line.

        Raises:
            OverloadedError: it may not.
        """
        if claim.priority > first.priority or self._is_due(first):
            raise OverloadedError(
                f"{len(self._line)} requests wait for room before yours. Try again, or add replicas",
                retry_after_s=RETRY_AFTER_S,
            )
        self._passed += claim.images

    def _is_due(self, first: Claim) -> bool:
        """Tell whether as many have passed the first in line as may."""
        return self._passed >= (FAIR_SHARE - 1) * first.images

    def _let_in(self, claim: Claim) -> None:
        self.images += claim.images
        self.bytes += claim.size_bytes

    def _let_out(self, claim: Claim) -> None:
        self.images -= claim.images
        self.bytes -= claim.size_bytes

    def _count_share(self, claim: Claim) -> None:
        if claim.client:
            self._by_client[claim.client] += claim.images

    def _drop_share(self, claim: Claim) -> None:
        """Let the same caller's other requests have their share."""
        if not (client := claim.client):
            return
        self._by_client[client] -= claim.images
        self._call_aside(client)
        if not self._by_client[client]:
            del self._by_client[client]

    def _call_aside(self, client: str) -> None:
        """Let those in line who wait for this caller's share, as far as there is any."""
        aside = self._aside.get(client)
        if aside is None:
            return
        while first := aside.first():
            waiting, turn = first[-1]
            if turn.done():
                aside.leave(first)
                continue
            if self._lacks_share(waiting):
                return
            aside.serve(first)
            self._count_share(waiting)
            turn.set_result(None)
        del self._aside[client]

    def _has_room(self, claim: Claim, room: _Room) -> bool:
        return not self._lacks_images(claim, room) and not self._lacks_bytes(claim, room)

    def _lacks_images(self, claim: Claim, room: _Room) -> bool:
        return self.images > 0 and self.images + claim.images > room.images

    def _lacks_bytes(self, claim: Claim, room: _Room) -> bool:
        return self.bytes > 0 and self.bytes + claim.size_bytes > room.size_bytes

    def _lacks_share(self, claim: Claim) -> bool:
        held = self._by_client[claim.client] if claim.client and self._max_client_images else 0
        return held > 0 and held + claim.images > self._max_client_images
