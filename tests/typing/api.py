"""The public API as users write it; only type-checked, never run."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
from PIL import Image

from regard_client import (
    AsyncClient,
    Client,
    Coalescing,
    Model,
    OverloadedError,
    RegardError,
    Result,
    Timings,
    Tls,
    Transport,
)
from regard_client.testing import FakeServer

default = Client()
with Client(
    "dns:///regard:50051",
    model="epsanet50",
    timeout_s=2.0,
    l2_normalize=True,
    encoding="float16",
    expected_fingerprint="pin",
    priority="bulk",
    attention_reduction="mean_queries",
    credentials=Tls(ca="ca.pem", certificate=Path("client.pem"), key="client.key"),
    token="secret",  # noqa: S106 - an example
    coalesce=Coalescing(max_images=16),
    max_in_flight=8,
    transport=Transport(max_receive_bytes=1 << 30),
) as client:
    client.wait_until_ready(30)

    assert_type(client.extract("photo.jpg"), npt.NDArray[Any])
    client.extract(Path("photo.jpg"), output="layer4", model="other", timeout_s=0.5)
    client.extract(b"jpeg")
    client.extract(bytearray(b"jpeg"))
    client.extract(memoryview(b"jpeg"))
    client.extract(np.zeros((224, 224, 3), np.uint8))
    client.extract(np.zeros((3, 224, 224), np.float32))
    client.extract(Image.open("photo.jpg"))
    with Path("photo.jpg").open("rb") as file:
        client.extract(file)

    for vector in client.extract_many(Path().glob("*.jpg")):
        assert_type(vector, npt.NDArray[Any])

    result = client.result("photo.jpg", outputs=["embedding", "logits"])
    assert_type(result, Result)
    assert_type(result.outputs["embedding"], npt.NDArray[Any])
    assert_type(result.timings, Timings)
    assert_type(result.timings.queue_ms, float)
    assert_type(result.error, RegardError | OSError | None)

    for each in client.results(["a.jpg", b"jpeg"]):
        if each.error is None:
            assert_type(each.fingerprint, str)

    assert_type(client.models(), list[Model])
    assert_type(client.model("epsanet50").outputs["embedding"].shape, tuple[int, ...])

    try:
        client.extract("photo.jpg")
    except OverloadedError as error:
        assert_type(error.retry_after_s, float | None)
    except RegardError as error:
        assert_type(error.reason, str)

    # Mistakes that the types catch; mypy complains if one of them is none.
    client.extract(None)  # type: ignore[arg-type]
    client.extract(["photo.jpg"])  # type: ignore[arg-type]
    Client(encoding="float23")  # type: ignore[arg-type]
    result.error = None  # type: ignore[misc]


def endless() -> Iterator[bytes]:
    """Images without end."""
    while True:
        yield b"jpeg"


async def arriving() -> AsyncIterator[bytes]:
    """Images as they arrive."""
    for image in endless():
        await asyncio.sleep(0)
        yield image


async def main() -> None:
    """The same with await."""
    async with AsyncClient("regard:50051", timeout_s=2.0) as regard:
        await regard.wait_until_ready()
        assert_type(await regard.extract("photo.jpg"), npt.NDArray[Any])
        first, second = await asyncio.gather(regard.extract("a.jpg"), regard.extract("b.jpg"))
        assert_type(first, npt.NDArray[Any])
        assert_type(second, npt.NDArray[Any])
        async for vector in regard.extract_many(arriving()):
            assert_type(vector, npt.NDArray[Any])
        async for each in regard.results(endless(), outputs=("embedding", "layer4")):
            assert_type(each, Result)
        assert_type(await regard.result("photo.jpg"), Result)
        assert_type(await regard.models(), list[Model])


def test_mine() -> None:
    """A user's own test."""
    with FakeServer() as server, Client(server.target) as mine:
        assert np.array_equal(mine.extract(b"any bytes"), server.vector(b"any bytes"))
        server.fail("OVERLOADED", retry_after_s=0.1)
