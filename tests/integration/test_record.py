"""The recorder of `tests/benchmarks`, against a real server."""

import csv
import os
import subprocess
import sys
from pathlib import Path

RECORD = Path(__file__).resolve().parents[1] / "benchmarks" / "record.py"
# The engine that needs no measuring; the script hands the environment on to the server that it starts.
PLAIN = {"REGARD_ENGINE": "eager", "REGARD_DTYPE": "float32"}


def test_calls_are_recorded_with_what_their_batches_took(tmp_path):
    """Every call has a line in the order of arrival, with its deadline, its batch and what that took."""
    path = tmp_path / "traces" / "tiny.csv"
    options = ("--case=tiny", "--rate=50", "--callers=2", "--seconds=0.5", "--deadlines", "20", "30")
    environment = {**os.environ, **PLAIN, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, str(RECORD), *options, f"--out={path}"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    machine, how, *lines = path.read_text().splitlines()
    assert machine.startswith("# ")
    assert "--case=tiny --rate=50" in how
    rows = list(csv.DictReader(lines))
    assert done.stdout.startswith(f"{len(rows)} calls, {len(rows)} answered")
    times = [float(row["arrived_ms"]) for row in rows]
    assert times == sorted(times)
    assert {row["kind"] for row in rows} == {"tiny"}
    assert {row["deadline_ms"] for row in rows} == {"20000", "30000"}
    assert all(int(row["batch"]) >= 1 and float(row["compute_ms"]) > 0 for row in rows)
