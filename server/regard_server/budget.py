"""Memory for decoding: so much at a time, whatever the number of threads; `footprint.py` says what a picture takes.

    thread ── reserve(bytes) ─→ taken until its turn ends
                  └─ too little left: ShortOfMemoryError ─→ the pool puts the picture off, and the thread reads others
    a turn ends ─→ the first of those put off has its bytes taken for it, and is read from its beginning

Nobody blocks a thread: pictures that take little are read while large ones wait. Those wait as all do, by class,
deadline and arrival; while one waits, no newcomer is given what it waits for.
"""

import threading
from typing import Any

from regard_server.line import Line, Place


class ShortOfMemoryError(Exception):
    """There is too little left for a picture at the moment; the pool's to know, not the caller's.

    Attributes:
        size: how many bytes it takes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes to decode in are not left at the moment")
        self.size = size


class MemoryBudget:
    """What pictures may take while they are decoded, all together, and who waits for some of it.

    Args:
        most: bytes. One picture always goes, whatever it takes.

    Attributes:
        lock: of the pool as well. What garbage collection ends while it is held may leave the pool's line: of two locks
            one would then be taken after the other in either order.
    """

    def __init__(self, most: int) -> None:
        self.lock = threading.RLock()
        self._most = most
        self._taken = 0
        self._of_threads: dict[int, int] = {}
        self._line: Line[Any] = Line()
        self._sizes: dict[int, int] = {}  # of those in line, by their numbers

    @property
    def in_use(self) -> bool:
        """Whether anybody has taken something, or waits."""
        return bool(self._of_threads or self._sizes)

    def reserve(self, size: int) -> None:
        """Take so many bytes, in all, for the turn that the calling thread has in the pool.

        Raises:
            ShortOfMemoryError: there is too little left, or others wait for it.
        """
        thread = threading.get_ident()
        with self.lock:
            held = self._of_threads.get(thread, 0)
            if size <= held:
                return
            if self._sizes or not self._has_room(size, held):
                raise ShortOfMemoryError(size)
            self._taken += size - held
            self._of_threads[thread] = size

    def give_back(self) -> None:
        """Give back what the calling thread has taken, if anything. The pool does, and then looks who is next."""
        with self.lock:
            self._taken -= self._of_threads.pop(threading.get_ident(), 0)

    def holds(self) -> bool:
        """Tell whether anything is taken for the calling thread."""
        return threading.get_ident() in self._of_threads

    def put_off(self, place: Place[Any], size: int) -> None:
        """Let a picture that had its turn wait for so many bytes."""
        with self.lock:
            self._line.put_back(place)
            self._sizes[place[2]] = size

    def leave(self, place: Place[Any]) -> bool:
        """Forget somebody; return whether he was waiting here."""
        with self.lock:
            self._sizes.pop(place[2], None)
            return self._line.leave(place)

    def first(self) -> Place[Any] | None:
        """Return whose turn it is, if there is room for him."""
        with self.lock:
            if (place := self._line.first()) is None or not self._has_room(self._sizes[place[2]], 0):
                return None
            return place

    def next(self) -> Place[Any] | None:
        """Return whose turn it is, if there is room for him, which is taken for the calling thread."""
        with self.lock:
            if (place := self.first()) is not None:
                self._line.serve(place)
                self._of_threads[threading.get_ident()] = size = self._sizes.pop(place[2])
                self._taken += size
            return place

    def empty(self) -> list[Place[Any]]:
        """Forget and return all who wait."""
        with self.lock:
            gone = []
            while place := self._line.first():
                self.leave(place)
                gone.append(place)
            return gone

    def _has_room(self, size: int, held: int) -> bool:
        """Tell whether somebody who holds so much may have this much instead."""
        others = self._taken - held
        return not others or others + size <= self._most
