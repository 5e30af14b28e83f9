"""The load generator: callers in a closed loop, in a process of their own.

Each caller sends its next image when the last one is answered. Prints an empty line when it is warm and begins
to count, and one line of JSON at the end: throughput, latency percentiles, mean batch size, errors, and the CPU
time that this process took for an image.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter

from cases import CASES

from regard_client import AsyncClient


async def call_for(client: AsyncClient, image, callers: int, seconds: float) -> dict:
    """Drive `callers` closed loops until the time is over."""
    latencies_ms: list[float] = []
    sizes: Counter[int] = Counter()
    errors: Counter[str] = Counter()
    stop_at = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < stop_at:
            result = await client.result(image)
            latencies_ms.append((time.perf_counter() - began) * 1000)
            sizes[result.timings.batch_size] += 1
            if result.error:
                errors[type(result.error).__name__] += 1

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    images = len(latencies_ms)
    p50, p95, p99 = (statistics.quantiles(latencies_ms, n=100)[at] for at in (49, 94, 98))
    return {
        "images": images,
        "images_per_s": images / elapsed,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "mean_batch": sum(size * count for size, count in sizes.items()) / images,
        "client_cpu_ms": cpu / images * 1000,
        "errors": sum(errors.values()),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--coalesce", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    image = CASES[arguments.case].image()
    async with AsyncClient(arguments.target, coalesce=arguments.coalesce, timeout_s=60) as client:
        await client.wait_until_ready()
        await call_for(client, image, arguments.callers, min(1.0, arguments.seconds / 2))
        print(flush=True)
        print(json.dumps(await call_for(client, image, arguments.callers, arguments.seconds)))


if __name__ == "__main__":
    asyncio.run(main())
