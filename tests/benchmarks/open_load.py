"""The other load generator: calls at a given rate, whatever becomes of them, each with a deadline.

Arrivals are evenly random (a Poisson process of a fixed seed), as from very many callers. With `--callers` instead of a
rate so many callers in a closed loop ask in the same way, for a peak that was counted as everything else: two rounds of
them settle, of which the second is timed, and what is counted spans three. Prints an empty line when it begins to
count, and one line of JSON at the end.

    ask ─→ ask ─→ ask ─→ ask ─→ ask ─→ ask ─→ ask ─→ ask ─→ stop
    settling         │▁▂▃▄▅▆▇█████████████▇▆▅▄▃▂▁│
                     └─── what an answer counts ─┘

It counts what comes back while the load lasts, from when the first deadlines have passed: what a full queue still
answers when nobody asks any more would make overload look better than it is. `goodput` is what was answered before its
deadline. Answers come in whole batches, and one of 32 just inside or outside the time would be 5 % of what ResNet-50
gives in 8 s; so an answer near either end, within a second or the time that a batch takes, counts in part, the less the
nearer.

A refusal is the server's word that it has no room (RESOURCE_EXHAUSTED, or its HTTP kin), or its client's for it; in a
closed loop the client sends whatever it is asked, and whoever is refused waits a little. Late is whoever got nothing in
time. `lag` is how late this generator itself sent: where it is not small, this process was the limit, not the server.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter

import grpc
from callers import CLOSED_WAYS, WAYS, Call, Late, Refused
from cases import CASES

from regard_client import RegardError

# Calls that are away at once, at most: a server that answers nobody must not fill this process's memory.
MOST_AWAY = 20_000
# Beyond a deadline, until what a server learns has settled.
_SETTLE_S = 1.0
# How long before the end, and after the beginning, an answer counts in part, at least.
_RAMP_S = 1.0
# Of a closed loop, what is counted spans so many.
_ROUNDS = 3
# After a refusal or a failure, so that callers in a closed loop for whom there is no room take no core for it.
_PAUSE_S = 0.01


class Load:
    """Calls, and what became of them.

    Args:
        call: how to ask.
        timeout_s: everybody's deadline.
        seconds: how long to count; longer in a closed loop where three rounds take longer.
        ramp_s: how long answers count in part at either end, at least.
    """

    def __init__(self, call: Call, timeout_s: float, seconds: float, ramp_s: float = _RAMP_S) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._seconds = seconds
        self._ramp_s = min(ramp_s, seconds / 2)
        self._away: set[asyncio.Task] = set()
        self._ends = asyncio.Semaphore(0)
        self._counts_from = 0.0
        self._counts = False
        self._outcomes: Counter[str] = Counter()
        self._good = 0.0
        self._answered_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._lags_ms: list[float] = []
        self._cpu_s = 0.0

    async def open(self, rate: float) -> None:
        """Send so many a second."""
        chance = random.Random(0)
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count(self._timeout_s + _SETTLE_S))
            await asyncio.sleep(0)
            while (due := due + chance.expovariate(rate)) < self._counts_from + self._seconds:
                if (ahead := due - time.perf_counter()) > 0:
                    await asyncio.sleep(ahead)
                if self._counts:
                    self._lags_ms.append(max(0.0, time.perf_counter() - due) * 1000)
                if len(self._away) >= MOST_AWAY:
                    self._end("unsent")
                else:
                    self._send(self._one())
        self._leave()

    async def closed(self, callers: int) -> None:
        """Let so many callers send their next when the last one has ended."""
        for _ in range(callers):
            self._send(self._forever())
        await self._round_s(callers)  # the first of its kind
        round_s = await self._round_s(callers)
        self._seconds = max(self._seconds, _ROUNDS * round_s)
        self._ramp_s = min(max(self._ramp_s, round_s), self._seconds / 2)
        await self._count(_SETTLE_S)
        self._leave()

    async def _round_s(self, callers: int) -> float:
        """Wait until so many calls have ended; return how long that took."""
        began = time.perf_counter()
        for _ in range(callers):
            await self._ends.acquire()
        return time.perf_counter() - began

    async def _count(self, settle_s: float) -> None:
        """Count for the time when the load is steady."""
        self._counts_from = time.perf_counter() + settle_s
        await asyncio.sleep(self._counts_from - time.perf_counter())
        self._counts, cpu_began = True, time.process_time()
        print(flush=True)
        await asyncio.sleep(self._counts_from + self._seconds - time.perf_counter())
        self._counts, self._cpu_s = False, time.process_time() - cpu_began

    def _send(self, what: object) -> None:
        task = asyncio.create_task(what)
        self._away.add(task)
        task.add_done_callback(self._away.discard)

    def _leave(self) -> None:
        for task in self._away:
            task.cancel()

    async def _forever(self) -> None:
        while True:
            if not await self._one():
                await asyncio.sleep(_PAUSE_S)

    async def _one(self) -> bool:
        """Make a call; return whether it was answered."""
        began = time.perf_counter()
        try:
            await self._call(self._timeout_s)
        except Refused:
            self._end("refused", self._refused_ms, began)
        except Late:
            self._end("late")
        except (RuntimeError, OSError, RegardError, grpc.RpcError) as error:
            self._end(type(error).__name__)
        else:
            in_time = time.perf_counter() - began <= self._timeout_s
            self._end("in time" if in_time else "late", self._answered_ms, began)
            return True
        return False

    def _end(self, outcome: str, took_ms: list[float] | None = None, began: float = 0.0) -> None:
        """Count a call, if it is time to count."""
        self._ends.release()
        if not self._counts:
            return
        now = time.perf_counter()
        self._outcomes[outcome] += 1
        if took_ms is not None:
            took_ms.append((now - began) * 1000)
        if outcome == "in time":
            inside_s = min(now - self._counts_from, self._counts_from + self._seconds - now)
            self._good += min(1.0, max(0.0, inside_s) / self._ramp_s)

    def figures(self) -> dict:
        """Return what was counted; shares are of all calls that ended."""
        ended = sum(self._outcomes.values()) or 1
        known = ("in time", "refused", "late")
        failed = sum(count for name, count in self._outcomes.items() if name not in known)
        return {
            "seconds": self._seconds,
            "ended": ended,
            "answered": len(self._answered_ms),
            "goodput": self._good / (self._seconds - self._ramp_s),
            "refused": self._outcomes["refused"] / ended,
            "late": self._outcomes["late"] / ended,
            "failed": failed / ended,
            "p50_ms": _percentile(self._answered_ms, 50),
            "p99_ms": _percentile(self._answered_ms, 99),
            "refusal_p50_ms": _percentile(self._refused_ms, 50),
            "refusal_p99_ms": _percentile(self._refused_ms, 99),
            "lag_p99_ms": _percentile(self._lags_ms, 99),
            "client_cores": self._cpu_s / self._seconds,
        }


def _percentile(values: list[float], percent: int) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, help="calls a second")
    how.add_argument("--callers", type=int, help="in a closed loop")
    parser.add_argument("--timeout", type=float, required=True, help="deadline of each, in seconds")
    parser.add_argument("--seconds", type=float, default=8.0, help="to count, at least")
    parser.add_argument("--ramp", type=float, default=_RAMP_S, help="seconds of those that count in part")
    arguments = parser.parse_args()
    way = (CLOSED_WAYS if arguments.callers else WAYS)[arguments.way]
    async with way(arguments.target, CASES[arguments.case].image()) as call:
        load = Load(call, arguments.timeout, arguments.seconds, arguments.ramp)
        if arguments.callers:
            await load.closed(arguments.callers)
        else:
            await load.open(arguments.rate)
        print(json.dumps(load.figures()))


if __name__ == "__main__":
    asyncio.run(main())
