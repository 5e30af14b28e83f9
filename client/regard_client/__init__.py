"""The client of regard: images in, feature vectors out.

    from regard_client import Client

    with Client("localhost:50051") as client:
        vector = client.extract("photo.jpg")

`Client` is for threads, `AsyncClient` for asyncio; both take the same arguments and images. Errors are in
`regard_client.errors`, a fake server for tests of your own in `regard_client.testing`.
"""

from regard_client.aio import AsyncClient
from regard_client.catalog import Limits, Model, OutputInfo, Preprocessing
from regard_client.channel import Tls, Transport
from regard_client.client import Client
from regard_client.coalescing import Coalescing
from regard_client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    FingerprintMismatchError,
    InternalServerError,
    InvalidImageError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    OverloadedError,
    RegardError,
    UnauthorizedError,
    UnavailableError,
)
from regard_client.images import ImageLike
from regard_client.results import Result, Timings

__all__ = [
    "AsyncClient",
    "Client",
    "ClientClosedError",
    "Coalescing",
    "DeadlineExceededError",
    "FingerprintMismatchError",
    "ImageLike",
    "InternalServerError",
    "InvalidImageError",
    "InvalidRequestError",
    "Limits",
    "MessageTooLargeError",
    "Model",
    "ModelNotFoundError",
    "OutputInfo",
    "OverloadedError",
    "Preprocessing",
    "RegardError",
    "Result",
    "Timings",
    "Tls",
    "Transport",
    "UnauthorizedError",
    "UnavailableError",
]
