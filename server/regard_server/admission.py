"""Admit: how much may be inside the server at once, counted in images and in bytes.

Everything behind this door is bounded by it: the decode pool's backlog, the queue, and the memory that
both hold. What does not fit is refused at once, with the time after which to try again; a stream, whose sender
is held back by flow control, waits instead.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from regard_server.errors import OverloadedError

# Long enough that a refused caller does not come straight back, short beside any useful deadline.
RETRY_AFTER_S = 0.1


class Admission:
    """Permits for images and a budget of bytes; used from the event loop only.

    Args:
        max_images: images inside, of everybody.
        max_bytes: their bytes.
        max_client_images: images of one caller; 0: as many as there is room for.
    """

    def __init__(self, *, max_images: int, max_bytes: int, max_client_images: int = 0) -> None:
        self._max_client_images = max_client_images
        self._by_client: Counter[str] = Counter()
        self._max_images = max_images
        self._max_bytes = max_bytes
        self.images = 0
        self.bytes = 0
        self._released = asyncio.Event()

    async def room(self, *, images: int, size_bytes: int, client: str = "") -> None:
        """Wait until `admit` would let a request in, if it is asked before anything else happens."""
        while (
            self._lacks_images(images) or self._lacks_bytes(size_bytes) or self._lacks_share(client, images)
        ):
            self._released.clear()
            await self._released.wait()

    @contextmanager
    def admit(self, *, images: int, size_bytes: int, client: str = "") -> Iterator[None]:
        """Hold room for a request while it is being served.

        A request larger than the whole budget is let in alone rather than never.

        Raises:
            OverloadedError: there is no room now.
        """
        if self._lacks_images(images):
            raise OverloadedError(
                f"{self.images} images are being served and {images} more were sent; "
                f"the limit is {self._max_images} at once. Try again, or add replicas",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._lacks_bytes(size_bytes):
            raise OverloadedError(
                f"{self.bytes} bytes are being served and {size_bytes} more were sent; "
                f"the limit is {self._max_bytes} at once. Try again, or add replicas",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._lacks_share(client, images):
            raise OverloadedError(
                f"{self._by_client[client]} images of yours are being served and {images} more were sent; "
                f"the limit for one caller is {self._max_client_images} at once. Try again when they are answered",
                retry_after_s=RETRY_AFTER_S,
            )
        self.images += images
        self.bytes += size_bytes
        if client:
            self._by_client[client] += images
        try:
            yield
        finally:
            if client:
                self._by_client[client] -= images
                if not self._by_client[client]:
                    del self._by_client[client]
            self.images -= images
            self.bytes -= size_bytes
            self._released.set()

    def _lacks_images(self, images: int) -> bool:
        return self.images > 0 and self.images + images > self._max_images

    def _lacks_share(self, client: str, images: int) -> bool:
        held = self._by_client[client] if client and self._max_client_images else 0
        return held > 0 and held + images > self._max_client_images

    def _lacks_bytes(self, size_bytes: int) -> bool:
        return self.bytes > 0 and self.bytes + size_bytes > self._max_bytes
