"""What one request may hold."""

from dataclasses import dataclass

from regard_server.images import ImageLimits


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The settings that bound a request, as `GetModel` tells them."""

    max_images: int
    image: ImageLimits
    max_message_bytes: int
    max_tensor_side: int
    max_reply_bytes: int
