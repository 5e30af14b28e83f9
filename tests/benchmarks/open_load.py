"""The other load generator: calls at a given rate, whatever becomes of them, each with a deadline.

Arrivals are evenly random (a Poisson process of a fixed seed), as from very many callers. Prints an empty line when
it begins to count, and one line of JSON at the end. `in time` is what was answered before its deadline; a refusal is
the server's word that it has no room (RESOURCE_EXHAUSTED, or its HTTP kin); late is whoever got nothing in time.
`lag` is how late this generator itself sent: where it is not small, this process was the limit, not the server.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter

import grpc
from callers import WAYS, Call, Late, Refused
from cases import CASES

from regard_client import RegardError

# Calls that are away at once, at most: a server that answers nobody must not fill this process's memory.
MOST_AWAY = 20_000


class OpenLoop:
    """Calls at a rate, and what became of them."""

    def __init__(self, call: Call, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._away: set[asyncio.Task] = set()
        self._outcomes: Counter[str] = Counter()
        self._answered_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._lags_ms: list[float] = []

    async def run(self, rate: float, seconds: float) -> None:
        """Send for so long, then wait for what is away."""
        chance = random.Random(0)
        began = due = time.perf_counter()
        while (due := due + chance.expovariate(rate)) < began + seconds:
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            self._lags_ms.append(max(0.0, time.perf_counter() - due) * 1000)
            if len(self._away) >= MOST_AWAY:
                self._outcomes["unsent"] += 1
                continue
            task = asyncio.create_task(self._one())
            self._away.add(task)
            task.add_done_callback(self._away.discard)
        if self._away:
            await asyncio.wait(self._away, timeout=4 * self._timeout_s)

    async def _one(self) -> None:
        began = time.perf_counter()
        try:
            await self._call(self._timeout_s)
        except Refused:
            self._outcomes["refused"] += 1
            self._refused_ms.append((time.perf_counter() - began) * 1000)
        except Late:
            self._outcomes["late"] += 1
        except (RuntimeError, OSError, RegardError, grpc.RpcError) as error:
            self._outcomes[type(error).__name__] += 1
        else:
            elapsed = time.perf_counter() - began
            self._outcomes["in time" if elapsed <= self._timeout_s else "late"] += 1
            self._answered_ms.append(elapsed * 1000)

    def figures(self, seconds: float) -> dict:
        sent = sum(self._outcomes.values())
        known = ("in time", "refused", "late")
        failed = sum(count for name, count in self._outcomes.items() if name not in known)
        return {
            "sent": sent,
            "goodput": self._outcomes["in time"] / seconds,
            "in_time": self._outcomes["in time"] / sent,
            "refused": self._outcomes["refused"] / sent,
            "late": self._outcomes["late"] / sent,
            "failed": failed / sent,
            "p50_ms": _percentile(self._answered_ms, 50),
            "p99_ms": _percentile(self._answered_ms, 99),
            "refusal_p50_ms": _percentile(self._refused_ms, 50),
            "refusal_p99_ms": _percentile(self._refused_ms, 99),
            "lag_p99_ms": _percentile(self._lags_ms, 99),
        }


def _percentile(values: list[float], percent: int) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--rate", type=float, required=True, help="calls a second")
    parser.add_argument("--timeout", type=float, required=True, help="deadline of each, in seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    seconds, rate = arguments.seconds, arguments.rate
    async with WAYS[arguments.way](arguments.target, CASES[arguments.case].image()) as call:
        await OpenLoop(call, arguments.timeout).run(
            rate, min(2.0, seconds / 2)
        )  # to the state that it stays in
        print(flush=True)
        loop = OpenLoop(call, arguments.timeout)
        cpu_began = time.process_time()
        await loop.run(rate, seconds)
        cpu_ms = (time.process_time() - cpu_began) * 1000
        figures = loop.figures(seconds)
        print(json.dumps({**figures, "client_cpu_ms": cpu_ms / figures["sent"]}))


if __name__ == "__main__":
    asyncio.run(main())
