"""A thread that takes a reading a second, so that whoever opens the page sees the last minutes at once."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from regard_server.page.history import History, Point, Reading, Summary

EVERY_S: Final = 1.0


class Watch:
    """Keeps the history; safe to ask from any thread.

    Args:
        read: takes a reading.
        logger: where a bug in that is told of.
    """

    def __init__(self, read: Callable[[], Reading], logger: logging.Logger) -> None:
        self._read = read
        self._logger = logger
        self._history = History()
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-watch", daemon=True)

    def start(self) -> None:
        """Begin to take readings."""
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def since(self, wall_s: float) -> tuple[list[Point], Reading | None, Summary | None]:
        """Return the points after a time (seconds since 1970), the newest reading, and the last minute's summary."""
        with self._guard:
            return self._history.points(wall_s), self._history.latest, self._history.summary()

    def _run(self) -> None:
        while True:
            try:
                reading = self._read()
                with self._guard:
                    self._history.add(reading)
            except Exception:
                self._logger.exception("a bug in the page; its figures stand still")
            if self._stopping.wait(EVERY_S):
                return
