"""Write down what a server is asked and how long its batches take, for `simulation.py --trace`.

    python tests/benchmarks/record.py --out tests/benchmarks/traces/small.csv

Serves a case by `regard serve` and asks it, a call an image: some callers in a closed loop, and beside them arrivals in
an open loop, evenly random at a rate that alternates between a fifth and nine fifths of its mean, twice a second. Each
call has one of the deadlines, by chance. A line is written for every call, answered or not: when it was sent, its
deadline, the size of its batch and what that took by the server's own timings.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import report
from cases import CASES
from processes import regard
from recording import Recorded, Recording

from regard_client import AsyncClient, DeadlineExceededError, OverloadedError

# A refused caller comes back no sooner, and each of a closed loop thinks for a while.
PAUSE_S = 0.010


class Recorder:
    """Asks, and takes notes."""

    def __init__(self, client: AsyncClient, case: str, deadlines_s: list[float]) -> None:
        self._client = client
        self._case = case
        self._image = CASES[case].image()
        self._deadlines_s = deadlines_s
        self._chance = random.Random(0)
        self._began = 0.0
        self.calls: list[Recorded] = []

    async def warm_up(self) -> None:
        """Let batches of all sizes come up once, which take longer then."""
        for count in (1, 2, 4, 8, 16, 32) * 2:
            await asyncio.gather(*(self._client.result(self._image) for _ in range(count)))

    async def record(self, *, rate: float, callers: int, seconds: float) -> Recording:
        """Ask for so long; return what was noted, in the order of arrival."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._loop(seconds))
            due = 0.0
            while (due := due + self._gap(rate, due)) < seconds:
                if (ahead := due - self._now()) > 0:
                    await asyncio.sleep(ahead)
                group.create_task(self._call())
        return Recording(sorted(self.calls, key=lambda call: call.arrived_s))

    def _gap(self, rate: float, now: float) -> float:
        return self._chance.expovariate(rate * (1.8 if int(now * 2) % 2 else 0.2))

    async def _loop(self, seconds: float) -> None:
        while self._now() < seconds:
            if not await self._call():
                await asyncio.sleep(PAUSE_S)

    async def _call(self) -> bool:
        arrived_s, deadline_s = self._now(), self._chance.choice(self._deadlines_s)
        batch, compute_s = 0, 0.0
        try:
            result = await self._client.result(self._image, timeout_s=deadline_s)
            batch, compute_s = result.timings.batch_size, result.timings.compute_ms / 1000
        except (OverloadedError, DeadlineExceededError):
            pass
        self.calls.append(Recorded(arrived_s, self._case, deadline_s, batch, compute_s))
        return batch > 0

    def _now(self) -> float:
        return time.perf_counter() - self._began


async def record(target: str, arguments: argparse.Namespace) -> Recording:
    async with AsyncClient(target, coalesce=False) as client:
        await client.wait_until_ready()
        recorder = Recorder(client, arguments.case, arguments.deadlines)
        await recorder.warm_up()
        return await recorder.record(
            rate=arguments.rate, callers=arguments.callers, seconds=arguments.seconds
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, default="small")
    parser.add_argument("--rate", type=float, default=250.0, help="calls a second in the open loop")
    parser.add_argument("--callers", type=int, default=4, help="in the closed loop")
    parser.add_argument("--deadlines", nargs="+", type=float, default=[0.25, 1.0], help="in seconds")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[arguments.case].save_model(Path(folder))
        with regard(f"model={model}") as server:
            recording = asyncio.run(record(server.target, arguments))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = report.machine()
    remarks = (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}",
        " ".join(["python tests/benchmarks/record.py", *sys.argv[1:]]),
    )
    recording.save(arguments.out, remarks)
    answered = sum(call.batch > 0 for call in recording.calls)
    print(f"{len(recording.calls)} calls, {answered} answered, written to {arguments.out}")


if __name__ == "__main__":
    main()
