"""Callers of another house: generated stubs, one image a call, nothing rides together. A process of their own.

Prints an empty line when it is warm and begins to count, and one line of JSON at the end.
"""

import argparse
import asyncio
import json
import statistics
import time

import grpc
from cases import pixels

from regard_client import AsyncClient
from regard_proto.v1 import features_pb2 as pb
from regard_proto.v1.features_pb2_grpc import FeatureServiceStub

SIDE = 32


async def call_for(call, callers: int, seconds: float) -> dict:
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
    calls = len(latencies_ms)
    percentiles = statistics.quantiles(latencies_ms, n=100)
    return {
        "calls": calls,
        "calls_per_s": calls / elapsed,
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "client_cpu_ms": cpu / calls * 1000,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--coalesce", action="store_true", help="this library's client instead of stubs")
    arguments = parser.parse_args()
    image = pixels(SIDE)
    request = pb.ExtractRequest(
        images=[pb.Image(raw=pb.RawImage(height=SIDE, width=SIDE, data=image.tobytes()))]
    )
    async with (
        AsyncClient(arguments.target, coalesce=True, timeout_s=60) as client,
        grpc.aio.insecure_channel(arguments.target) as channel,
    ):
        stub = FeatureServiceStub(channel)

        def call():
            return client.result(image) if arguments.coalesce else stub.Extract(request, timeout=60)

        await call_for(call, arguments.callers, min(0.5, arguments.seconds / 2))
        print(flush=True)
        print(json.dumps(await call_for(call, arguments.callers, arguments.seconds)))


if __name__ == "__main__":
    asyncio.run(main())
