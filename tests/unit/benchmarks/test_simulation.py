"""The simulation and the cost of scheduling: begun once in small, and what their figures rest on."""

import json
import random
import sys

import pytest
import scheduling
import simulation
from recording import Recorded, Recording
from simulation import COSTS, MOST, Kind, OpenLoop, Workload, arrivals, between, even, regard


def run(monkeypatch, script, *options):
    """Run a script's main here; return what it wrote."""
    monkeypatch.setattr(sys, "argv", ["script", *options])
    script.main()
    (written,) = simulation.report.RESULTS.iterdir()
    return json.loads(written.read_text())


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Let results go where nobody keeps them."""
    monkeypatch.setattr(simulation.report, "RESULTS", tmp_path / "results")


def test_the_simulation_runs(monkeypatch):
    """Every policy has a row in every scenario, with goodput and percentiles."""
    written = run(monkeypatch, simulation, "--seconds", "0.3", "--trial-seconds", "0.02")
    by_scenario = {}
    for row in written["rows"]:
        by_scenario.setdefault(row["arrivals"], []).append(row)
        assert {"goodput/s", "useful %", "in vain p50 ms"} <= row.keys()
    policies = [row["policy"] for row in by_scenario["even 2.0x"]]
    assert len(policies) == 1 + 2 * len(simulation.OUT_OF_THE_BOX)
    assert all([row["policy"] for row in rows] == policies for rows in by_scenario.values())
    assert {"1 s: p99 ms", "100 ms: goodput/s"} <= by_scenario["mixed deadlines 0.8x"][0].keys()


def test_a_trace_is_replayed(monkeypatch, tmp_path):
    """What was recorded is sent again, faster, too, and the kinds are told apart."""
    calls = [Recorded(number / 100, "tiny", 0.1 + number % 2, 1, 0.010) for number in range(20)]
    path = tmp_path / "trace.csv"
    Recording(calls).save(path, [])
    rows = run(monkeypatch, simulation, "--trace", str(path))["rows"]
    assert {row["arrivals"] for row in rows} == {f"recorded {speed}x" for speed in simulation.SPEEDS}
    ours = rows[0]
    assert (ours["policy"], ours["arrivals"]) == ("regard", "recorded 1.0x")
    assert ours["tiny 0.1 s: goodput/s"] + ours["tiny 1.1 s: goodput/s"] == ours["goodput/s"] > 0


def test_the_cost_of_scheduling_runs(monkeypatch):
    """Both tables have a row for every number of buckets and of those who wait."""
    options = ("--waiting", "3", "40", "--buckets", "1", "2", "--cycles", "5", "--rounds", "2")
    rows = run(monkeypatch, scheduling, *options)["rows"]
    found = [(row["table"], row["buckets"], row["waiting"]) for row in rows]
    assert found == [
        (table, buckets, waiting)
        for table in ("ordinary", "overload")
        for buckets in (1, 2)
        for waiting in (3, 40)
    ]
    assert {"item µs", "discard µs", "decide, worst ms"} <= rows[0].keys()
    assert {"refuse µs", "foresee µs", "leave, worst ms", "drop, worst ms"} <= rows[-1].keys()


def test_all_who_were_sent_are_accounted_for():
    """Everybody was answered, refused, left without an answer or is still inside at the end."""
    workload = Workload((Kind("staying", 0.7), Kind("leaving", 0.3, leaving=True)), decoding_s=0.02)
    times = [*even(2 * workload.capacity, 1.0, random.Random(0))]
    scenario = OpenLoop("", workload, arrivals(times, workload.kinds), 5.0)  # long after the last one came
    row = scenario.measure(regard)
    answered = row["goodput/s"] * scenario.seconds
    others = (row["refused %"] + row["late %"] + row["left %"]) / 100 * len(times)
    assert answered + others == pytest.approx(len(times))
    assert row["left %"] > 0
    assert row["refused %"] > 0


def test_a_batch_costs_what_is_between_its_neighbours():
    """Known sizes cost what is known, others what is on the line between."""
    assert between(COSTS, 32) == COSTS[32]
    assert between(COSTS, 24) == pytest.approx((COSTS[16] + COSTS[32]) / 2)
    assert between({1: 0.5}, 4) == 0.5


def test_useful_time_is_that_of_full_batches():
    """An answer of a model that costs four times as much is four times as useful."""
    costs = {"small": COSTS, "large": {size: 4 * seconds for size, seconds in COSTS.items()}}
    useful = []
    for model in costs:
        workload = Workload((Kind(model, model=model),), costs)
        useful.append(OpenLoop("", workload, [(0.0, workload.kinds[0])], 1.0).measure(regard)["useful %"])
    assert useful == [pytest.approx(100 * COSTS[MOST] / MOST), pytest.approx(400 * COSTS[MOST] / MOST)]
