"""The benchmarks: each begun once in small, so that none rots, and what their load generators promise.

Nothing here looks at a figure that depends on speed.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from processes import TOP

from regard_models import DEFAULT_MODEL

BENCHMARKS = TOP / "tests" / "benchmarks"
# The engine that needs no measuring; the scripts hand the environment on to the server that they start.
PLAIN = {"REGARD_ENGINE": "eager", "REGARD_DTYPE": "float32"}
BRIEF = ("--seconds=0.2", "--rounds=1")
WAYS = ("", ", stream", ", 16 a message", ", our client")
# Script: its options, and the columns of its rows that somebody reads by name.
SCRIPTS = {
    "overload": (
        ("--cases=tiny", "--ways=client", "--loads=2", *BRIEF),
        {"load", "deadline s", "goodput/s", "of peak", "refused %", "refusal p99 ms", "server CPU ms"},
    ),
    "frontend": (
        ("--callers=2", *BRIEF, "--kinds", *(f"regard, direct{way}" for way in WAYS)),
        {"server", "callers", "images/s", "p50 ms", "server CPU ms", "of plain"},
    ),
    "serving": (("--cases=tiny", "--callers=2", *BRIEF), {"case", "callers", "images/s", "of loop"}),
    "startup": (
        ("--case=tiny", "--idle=0.2", *BRIEF),
        {"cache", "beyond torch s", "after load", "idle CPU %"},
    ),
    "neighbours": (("--case=tiny", "--servers=eager", *BRIEF), {"engine", "neighbour", "of alone"}),
    "decoding": (("--sizes=64x48", *BRIEF), {"size", "ratio", "cosine worst", "its cosine worst"}),
    "metrics_cost": (
        ("--cases=null", "--ways=client", "--seconds=0.2", "--pairs=2"),
        {"case", "way", "without, CPU µs", "more %", "of calls µs", "ms"},
    ),
    "page": (("--ways=page, one viewer", "--load=0.2", *BRIEF), {"way", "idle CPU %", "CPU ms/image"}),
    "peers": (
        ("--case=null", "--servers=regard", "--callers=2", *BRIEF),
        {"server", "way", "callers", "calls/s", "server CPU ms"},
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run every script, two at a time, each in a folder of its own; yield what becomes of them by name."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, **PLAIN, "XDG_CACHE_HOME": str(cache)}

    def run(name):
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SCRIPTS[name][0]]
        done = subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (written,) = (folder / "bench-results").iterdir()
        return json.loads(written.read_text())

    with ThreadPoolExecutor(2) as pool:
        runs: dict[str, Future] = {name: pool.submit(run, name) for name in SCRIPTS}
        yield runs
        for each in runs.values():
            each.cancel()


@pytest.mark.timeout(600)  # on a machine with other work; it waits for those before it, too
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_writes_what_it_measured(runs, name):
    """It ends well, and its file has the machine, its settings and rows with the columns by which they are read."""
    written = runs[name].result()
    assert {"benchmark", "when", "machine", "settings", "rows"} <= written.keys()
    assert {"processor", "cores", "cpu_quota", "torch", "openvino", "grpcio"} <= written["machine"].keys()
    columns = {column for row in written["rows"] for column in row}
    assert SCRIPTS[name][1] <= columns


def test_nobody_in_the_closed_loop_is_late_or_refused(runs):
    """The loop that gives the peak has no deadline to miss; that of the others is at least the shortest."""
    closed, twice = runs["overload"].result()["rows"]
    assert (closed["load"], closed["deadline s"], closed["refused %"], closed["late %"]) == (
        "closed",
        "",
        0,
        0,
    )
    assert twice["deadline s"] >= 0.25


def told(script):
    """Run a script that imports the benchmarks' modules; return what it prints as JSON."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_load_generators_do_without_torch():
    """What they import brings no torch, although it names the default network."""
    model, with_torch = told("""
import json, sys
import load, open_load, unary_load
from cases import CASES
print(json.dumps([CASES["mini"].model, "torch" in sys.modules]))
""")
    assert model == DEFAULT_MODEL
    assert not with_torch


def test_a_closed_loop_that_is_refused_does_not_spin():
    """Whoever is refused at once waits before the next call, and leaves the core to others."""
    found = told("""
import asyncio, json, time
from callers import Refused
from open_load import _PAUSE_S, Load
calls = 0

async def refuse(timeout_s):
    global calls
    calls += 1
    raise Refused

load, began = Load(refuse, timeout_s=60, seconds=0.1), time.perf_counter()
asyncio.run(load.closed(callers=4))
most = 4 * ((time.perf_counter() - began) / _PAUSE_S + 1)
print(json.dumps({"calls": calls, "most": most, **load.figures()}))
""")
    assert found["refused"] == 1
    assert found["calls"] <= found["most"]


def test_the_client_of_a_closed_loop_sends_every_call():
    """What a closed loop counts as refused, the server has refused, and not its client instead."""
    assert told("""
import asyncio, json
from callers import CLOSED_WAYS, Refused
from cases import pixels
from grpc import StatusCode
from regard_client.testing import FakeServer

async def refused(target, calls):
    count = 0
    async with CLOSED_WAYS["client"](target, pixels(32)) as call:
        for _ in range(calls):
            try:
                await call(60.0)
            except Refused:
                count += 1
    return count

with FakeServer() as server:
    server.fail("OVERLOADED", StatusCode.RESOURCE_EXHAUSTED, times=60)
    print(json.dumps([asyncio.run(refused(server.target, 60)), len(server.calls)]))
""") == [60, 60]


def test_the_summary_says_what_is_met_missed_and_not_measured(tmp_path):
    """Each target stands in a line of its own, with the worst of what was measured and how far off that is."""
    rows = [
        {
            "case": case,
            "server": "regard",
            "way": "client",
            "load": "2x",
            "of peak": share,
            "refusal p99 ms": 6.0,
        }
        for case, share in (("small", 0.99), ("resnet50", 0.96))
    ]
    rows += [{**rows[0], "load": "5x", "refusal p99 ms": ""}]
    peers = [
        {"server": server, "way": way, "callers": 32, "calls/s": rate, "server CPU ms": 0.1}
        for server, way, rate in (
            ("regard", "client", 90),
            ("regard", "stub", 500),
            ("a", "http", 100),
            ("b", "http", 80),
        )
    ]
    (tmp_path / "bench-results").mkdir()
    for name, written in (("overload", rows), ("peers-null-default", peers)):
        path = tmp_path / "bench-results" / f"{name}.json"
        path.write_text(json.dumps({"rows": written, "when": "2026-01-02T03:04:05+00:00"}))
    command = [sys.executable, str(BENCHMARKS / "summary.py")]
    done = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True)
    said = " ".join(done.stdout.split())
    assert "2x the capacity, its client, of peak: goodput ≥ 0.95 0.960 met overload 2026-01-02T03:04" in said
    assert "2x the capacity, its client: p99 ms of refusals ≤ 5 6.000 missed by 20%" in said
    assert "5x the capacity, its client: p99 ms of refusals ≤ 5 not measured" in said
    assert "idle: % of a core ≤ 0.1 not measured" in said
    assert "nothing to compute, 32 callers, of the best other server: calls/s ≥ 1 0.900 missed by 10%" in said
    assert "nothing to compute, 32 callers, of the best other server: CPU ≤ 1 1.000 met" in said
