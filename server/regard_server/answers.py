"""One request's results, and the room that its pictures were promised at the device. Used from the event loop."""

from collections.abc import Callable, Sequence

from regard_server.batcher import Batcher
from regard_server.request import Result
from regard_server.work import BatchKey


class Answers:
    """The results of one request, which come in any order; the last one, or an error, ends the waiting for them.

    Args:
        count: of how many pictures they are to come, one at least.
    """

    __slots__ = ("_count", "_error", "_kept", "_missing", "_on_over", "_over", "_results")

    def __init__(self, count: int) -> None:
        self._count = self._missing = self._kept = count
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None
        self._over = False
        self._on_over: Callable[[], None] | None = None

    def when_over(self, on_over: Callable[[], None]) -> None:
        """Have a function called when the waiting is over; at once if it is."""
        if self._over:
            on_over()
        else:
            self._on_over = on_over

    def give(self, index: int, result: Result) -> None:
        """Take the result of one picture, or of several from this one on; the last one ends the waiting."""
        self._missing -= result.images
        if self._over:
            return
        self._results[index] = result
        if not self._missing:
            self._end()

    def lose(self, index: int, result: Result, error: BaseException) -> None:
        """Take the result of pictures that were not served; if that is true of all, the last error is the request's."""
        self._kept -= result.images
        if self._kept:
            self.give(index, result)
        else:
            self.fail(error)

    def expire(self, late: Callable[[int], Result]) -> None:
        """End the waiting, as time is over: what is missing is late; where that is all, the request is.

        `late` makes the result of so many pictures.
        """
        if self._over:
            return
        if self._kept == self._missing:
            self.fail(TimeoutError())
            return
        start = 0
        ends: list[tuple[int, Result | None]] = [*sorted(self._results.items()), (self._count, None)]
        for index, result in ends:
            if index > start:
                self._results[start] = late(index - start)
            start = index + (result.images if result else 0)
        self._end()

    @property
    def complete(self) -> bool:
        """Whether every picture has come to its own end."""
        return not self._missing

    def fail(self, error: BaseException) -> None:
        """End the waiting with an error."""
        if not self._over:
            self._error = error
            self._end()

    def outcome(self) -> "Sequence[Result] | BaseException":
        """Return every result, in the pictures' order, or what `fail` was given; once, when the waiting is over."""
        if self._error is not None:
            # Kept nowhere but by who is given it: its frames hold the pictures, and would hold them until the cyclic
            # garbage collector came by.
            error, self._error = self._error, None
            return error
        results, self._results = self._results, {}
        return [results[index] for index in sorted(results)]

    def _end(self) -> None:
        self._over = True
        if self._on_over is not None:
            on_over, self._on_over = self._on_over, None
            on_over()


class Room:
    """Room at the device that was promised to a picture: its entry takes it, or it is given back, once.

    Where none is owed, the picture is thought to need none, since its answer is remembered or on its way.
    """

    __slots__ = ("_batcher", "_count", "_deadline", "_priority", "key", "owed")

    def __init__(
        self,
        key: BatchKey,
        batcher: Batcher,
        *,
        deadline: float,
        priority: int,
        count: int = 1,
        owed: bool = True,
    ) -> None:
        self.key = key
        self._batcher = batcher
        self._deadline = deadline
        self._priority = priority
        self._count = count
        self.owed = owed

    def renew(self, ready: float) -> None:
        """Have it promised once more, to a picture that has to be computed after all and can be by `ready`.

        Raises:
            OverloadedError: there is none left.
        """
        self._batcher.reserve(
            self.key, self._count, ready=ready, deadline=self._deadline, priority=self._priority
        )
        self.owed = True

    def taken(self) -> None:
        """Take note that an entry went to the batcher, which redeemed the promise."""
        self.owed = False

    def give_back(self) -> None:
        """Let somebody else have it, unless it was taken or given back already."""
        if self.owed:
            self.owed = False
            self._batcher.release(self.key, self._count, deadline=self._deadline, priority=self._priority)
