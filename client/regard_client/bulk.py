"""Many images in order: how they are packed into messages, and what is done about a message that fails.

    images ─→ Pile ─→ message, message, … ═══ at most max_in_flight ═══ results, in the images' order
              what has been read             a failed one: halved, sent again after a pause, or raised

A message departs when it is full, or when none is on its way: a server that is faster than the images come gets
small messages at once, a slower one gets full ones, and no timer decides. This is the whole of the policy;
`bulk_threads.py` and `bulk_tasks.py` carry it out.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from regard_client.coalescing import Coalescing
from regard_client.errors import InvalidImageError, OverloadedError, RegardError, UnavailableError
from regard_client.images import ImageLike, Picture, read_image
from regard_client.results import Result, read_results
from regard_proto.v1 import features_pb2 as pb

# Nobody waits for one of many images as they wait for a single one: a message of 32 may well need its time on a
# busy or slow server.
TIMEOUT_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0

# An image that is ready, or why there is none; it keeps its place either way.
Item: TypeAlias = Picture | InvalidImageError | OSError
Items: TypeAlias = Sequence[Item]


def read_item(image: ImageLike) -> Item:
    """Return an image ready for the wire, or what is wrong with it.

    Raises:
        TypeError: it is none of the accepted kinds, which is a mistake in the program and not in the data.
    """
    try:
        return read_image(image)
    except (InvalidImageError, OSError) as error:
        return error


class Pile:
    """What has been read and not been sent: never more than one message and one image."""

    def __init__(self, limits: Coalescing) -> None:
        self._max_images = limits.max_images
        self._max_bytes = limits.max_bytes
        self._items: deque[Item] = deque()

    def add(self, item: Item) -> None:
        """Put one image on the pile."""
        self._items.append(item)

    def shrink(self, max_images: int) -> None:
        """Hold messages to fewer images, now that a larger one was too much for the server."""
        self._max_images = min(self._max_images, max_images)

    def depart(self, *, idle: bool) -> Items:
        """Return the next message, or nothing: a full one, or with `idle` whatever there is."""
        room = self._max_bytes
        fitting = 0
        for item in self._items:
            room -= _nbytes(item)
            if fitting and (room < 0 or fitting == self._max_images):
                break
            fitting += 1
        full = fitting < len(self._items) or fitting == self._max_images or room <= 0
        return [self._items.popleft() for _ in range(fitting)] if full or idle else []


def pictures(items: Items) -> list[Picture]:
    """Return those that are sent."""
    return [item for item in items if not isinstance(item, Exception)]


def halves(items: Items) -> tuple[Items, Items]:
    """Return two messages out of one that was too much."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def results(items: Items, response: pb.ExtractResponse) -> list[Result]:
    """Return one result for each, in order: the server's, or the error that kept it from being sent."""
    answers = iter(read_results(response))
    return [Result(error=item) if isinstance(item, Exception) else next(answers) for item in items]


def pause_s(error: RegardError, attempt: int, left_s: float) -> float | None:
    """Return how long to wait before a message is sent again; None if it is not.

    A server that is overloaded or restarting is waited for, as long as it or a doubling pause says, until
    `left_s` would run out. All other errors are final.
    """
    if not isinstance(error, OverloadedError | UnavailableError):
        return None
    doubling_s = min(_FIRST_PAUSE_S * 2**attempt, _MAX_PAUSE_S)
    pause = doubling_s if error.retry_after_s is None else max(error.retry_after_s, _FIRST_PAUSE_S)
    return pause if pause < left_s else None


def _nbytes(item: Item) -> int:
    return 0 if isinstance(item, Exception) else item.nbytes
