"""The deadlines of tasks that wait: one timer for all that wait equally long, however many they are.

Of those who were given the same timeout, whoever came first is late first, so a line in the order of arrival needs no
sorting, and its timer only ever minds the first. A timer for each task is sorted in and out again, and
`asyncio.timeout` asks three times for the running loop, which is a system call in Python 3.11.
"""

import asyncio
from typing import Any, Final, TypeAlias

# A timer may come so much early, by its clock's grain; asking again would take as long.
_GRAIN_S: Final = 0.001

_Line: TypeAlias = dict[asyncio.Future[Any], float]


class Deadlines:
    """Gives futures the result None when their time is over. For one event loop."""

    def __init__(self) -> None:
        self._lines: dict[float, _Line] = {}  # by timeout: the deadlines of those who wait, oldest first

    def add(self, future: asyncio.Future[Any], timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Mind a future until it is removed."""
        line = self._lines.get(timeout_s)
        if line is None:
            line = self._lines[timeout_s] = {}
            loop.call_later(timeout_s, self._look, timeout_s, loop)
        line[future] = loop.time() + timeout_s

    def remove(self, future: asyncio.Future[Any], timeout_s: float) -> None:
        """Mind a future no more."""
        line = self._lines.get(timeout_s)
        if line is not None:
            line.pop(future, None)

    def _look(self, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Wake whoever is late, and look again when the next one is; let an empty line go."""
        line = self._lines[timeout_s]
        now = loop.time() + _GRAIN_S
        while line:
            future, deadline = next(iter(line.items()))
            if deadline > now:
                loop.call_at(deadline, self._look, timeout_s, loop)
                return
            del line[future]
            if not future.done():
                future.set_result(None)
        del self._lines[timeout_s]
