"""Callers of small pictures in a closed loop, in one of the ways that the API knows. A process of their own.

    stub    generated stubs, a call for every message: callers of another house, of whom nothing rides together
    stream  the same messages in one StreamExtract, of each caller one at a time
    client  this library's client, whose concurrent calls ride together

Prints an empty line when it is warm and begins to count, and one line of JSON at the end. Of messages with several
images latencies are the message's; what a thing costs is an image's share.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from cases import pixels

from regard_client import AsyncClient
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

SIDE = 32
TIMEOUT_S = 60.0
Call = Callable[[], Awaitable[object]]


@asynccontextmanager
async def stub(target: str, images: int) -> AsyncIterator[Call]:
    message = request(images)
    async with grpc.aio.insecure_channel(target) as channel:
        extract = FeatureServiceStub(channel).Extract

        async def call() -> None:
            response = await extract(message, timeout=TIMEOUT_S)
            if images > 1:  # an echo has one, and no results
                check(response, images)

        yield call


@asynccontextmanager
async def stream(target: str, images: int) -> AsyncIterator[Call]:
    waiting: dict[str, asyncio.Future] = {}
    unsent: asyncio.Queue[pb.ExtractRequest] = asyncio.Queue()

    async def requests() -> AsyncIterator[pb.ExtractRequest]:
        while True:
            yield await unsent.get()

    async def read(responses) -> None:
        try:
            async for response in responses:
                waiting.pop(response.request_id).set_result(response)
        finally:  # whoever waits for a stream that has ended would wait for ever
            for answer in waiting.values():
                answer.cancel()

    numbers = itertools.count()
    pictures = request(images).images

    async def call() -> None:
        number = str(next(numbers))
        answer = waiting[number] = asyncio.get_running_loop().create_future()
        unsent.put_nowait(pb.ExtractRequest(request_id=number, images=pictures))
        check(await answer, images)

    async with grpc.aio.insecure_channel(target) as channel:
        responses = FeatureServiceStub(channel).StreamExtract(requests())
        reading = asyncio.create_task(read(responses))
        yield call
        responses.cancel()
        await asyncio.wait([reading])


@asynccontextmanager
async def client(target: str, _images: int) -> AsyncIterator[Call]:
    picture = pixels(SIDE)
    async with AsyncClient(target, coalesce=True, timeout_s=TIMEOUT_S) as opened:
        yield lambda: opened.result(picture)


WAYS = {"stub": stub, "stream": stream, "client": client}


def request(images: int) -> pb.ExtractRequest:
    """Return a message with so many of the same picture."""
    raw = pb.RawImage(height=SIDE, width=SIDE, data=pixels(SIDE).tobytes())
    return pb.ExtractRequest(images=[pb.Image(raw=raw)] * images)


def check(response: pb.ExtractResponse, images: int) -> None:
    if len(response.results) != images or not response.results[0].HasField("features"):
        raise RuntimeError(f"no features: {response}")


async def call_for(call: Call, callers: int, images: int, seconds: float) -> dict:
    """Drive closed loops until the time is over."""
    latencies_ms: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < stop_at:
            await call()
            latencies_ms.append((time.perf_counter() - began) * 1000)

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    answered = images * len(latencies_ms)
    percentiles = statistics.quantiles(latencies_ms, n=100)
    return {
        "images": answered,
        "images_per_s": answered / elapsed,
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "client_cpu_ms": cpu / answered * 1000,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--way", choices=WAYS, default="stub")
    parser.add_argument("--images", type=int, default=1, help="in a message; not by this library's client")
    arguments = parser.parse_args()
    callers, images, seconds = arguments.callers, arguments.images, arguments.seconds
    async with WAYS[arguments.way](arguments.target, images) as call:
        await call_for(call, callers, images, min(0.5, seconds / 2))
        print(flush=True)
        print(json.dumps(await call_for(call, callers, images, seconds)))


if __name__ == "__main__":
    asyncio.run(main())
