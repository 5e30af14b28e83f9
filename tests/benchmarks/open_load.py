"""The other load generator: calls at a given rate, whatever becomes of them, each with a deadline.

Arrivals are evenly random (a Poisson process of a fixed seed), as from very many callers. Prints an empty line when
it begins to count, and one line of JSON at the end. It counts what comes back while the load lasts, from when the first
deadlines have passed: what a full queue still answers when nobody asks any more would make overload look better than it
is. `in time` is what was answered before its deadline; a refusal is the server's word that it has no room
(RESOURCE_EXHAUSTED, or its HTTP kin); late is whoever got nothing in time.
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
# Beyond a deadline, until what a server learns has settled.
_SETTLE_S = 1.0


class OpenLoop:
    """Calls at a rate, and what became of them."""

    def __init__(self, call: Call, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._away: set[asyncio.Task] = set()
        self._counts = False
        self._outcomes: Counter[str] = Counter()
        self._answered_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._lags_ms: list[float] = []

    async def run(self, rate: float, seconds: float) -> float:
        """Send until a steady state was counted for so long; return the CPU seconds that the counted time took."""
        chance = random.Random(0)
        due = time.perf_counter()
        count_from = due + self._timeout_s + _SETTLE_S
        cpu_began = 0.0
        while (due := due + chance.expovariate(rate)) < count_from + seconds:
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            if due >= count_from and not self._counts:
                self._counts, cpu_began = True, time.process_time()
                print(flush=True)
            if self._counts:
                self._lags_ms.append(max(0.0, time.perf_counter() - due) * 1000)
            if len(self._away) >= MOST_AWAY:
                self._end("unsent")
                continue
            task = asyncio.create_task(self._one())
            self._away.add(task)
            task.add_done_callback(self._away.discard)
        self._counts = False
        cpu_s = time.process_time() - cpu_began
        for task in self._away:
            task.cancel()
        return cpu_s

    async def _one(self) -> None:
        began = time.perf_counter()
        try:
            await self._call(self._timeout_s)
        except Refused:
            self._end("refused", self._refused_ms, time.perf_counter() - began)
        except Late:
            self._end("late")
        except (RuntimeError, OSError, RegardError, grpc.RpcError) as error:
            self._end(type(error).__name__)
        else:
            elapsed = time.perf_counter() - began
            self._end("in time" if elapsed <= self._timeout_s else "late", self._answered_ms, elapsed)

    def _end(self, outcome: str, took_ms: list[float] | None = None, elapsed_s: float = 0.0) -> None:
        """Count a call, if it is time to count."""
        if self._counts:
            self._outcomes[outcome] += 1
            if took_ms is not None:
                took_ms.append(elapsed_s * 1000)

    def figures(self, seconds: float) -> dict:
        ended = sum(self._outcomes.values())
        known = ("in time", "refused", "late")
        failed = sum(count for name, count in self._outcomes.items() if name not in known)
        return {
            "ended": ended,
            "goodput": self._outcomes["in time"] / seconds,
            "in_time": self._outcomes["in time"] / ended,
            "refused": self._outcomes["refused"] / ended,
            "late": self._outcomes["late"] / ended,
            "failed": failed / ended,
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
        loop = OpenLoop(call, arguments.timeout)
        cpu_s = await loop.run(rate, seconds)
        figures = loop.figures(seconds)
        print(json.dumps({**figures, "client_cpu_ms": cpu_s * 1000 / figures["ended"]}))


if __name__ == "__main__":
    asyncio.run(main())
