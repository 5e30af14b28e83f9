"""The benchmarks are scripts beside each other; here their modules are found by name, after everybody else's."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.append(str(BENCHMARKS))
