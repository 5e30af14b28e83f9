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

import grpc
from callers import WAYS, Call, Late, Refused
from cases import CASES

from regard_client import RegardError

TIMEOUT_S = 60.0
# After a failure, so that one that comes at once is not a loop without end.
PAUSE_S = 0.01
# Percentiles of fewer answers mean nothing.
FEWEST = 2


async def call_for(call: Call, callers: int, seconds: float) -> dict:
    """Drive `callers` closed loops until the time is over."""
    latencies_ms: list[float] = []
    sizes: Counter[int] = Counter()
    errors: Counter[str] = Counter()
    stop_at = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < stop_at:
            try:
                sizes[await call(TIMEOUT_S)] += 1
            except (Refused, Late, RuntimeError, OSError, RegardError, grpc.RpcError) as error:
                errors[type(error).__name__] += 1
                await asyncio.sleep(PAUSE_S)
            else:
                latencies_ms.append((time.perf_counter() - began) * 1000)

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    images = len(latencies_ms)
    if images < FEWEST:
        raise RuntimeError(f"only {images} answers in {elapsed:.1f} s; errors: {dict(errors)}")
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
    parser.add_argument("--way", choices=WAYS, default="client", help="see callers.py")
    arguments = parser.parse_args()
    async with WAYS[arguments.way](arguments.target, CASES[arguments.case].image()) as call:
        await call_for(call, arguments.callers, min(1.0, arguments.seconds / 2))
        print(flush=True)
        print(json.dumps(await call_for(call, arguments.callers, arguments.seconds)))


if __name__ == "__main__":
    asyncio.run(main())
