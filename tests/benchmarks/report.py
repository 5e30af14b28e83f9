"""What every benchmark prints: a table for people, and the same as JSON with the machine's name."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from regard_server.build import this_build
from regard_server.cores import cpu_quota

RESULTS = Path("bench-results")
# Others who share the machine disturb every figure; what ran before this began tells how much.
LOAD_AT_START = os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """Name the machine and the versions that a figure depends on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "cpu_quota": cpu_quota(),
        "load_average_at_start": LOAD_AT_START,
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "openvino", "grpcio", "protobuf")},
        "compiled": this_build().compiled,
    }


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of like keys, numbers to the right; a row shows what it has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def save(name: str, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Path:
    """Write rows, settings and machine to bench-results/NAME.json and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    report = {"benchmark": name, "when": when, "machine": machine(), "settings": settings, "rows": list(rows)}
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def load(name: str) -> list[dict[str, Any]]:
    """Return the rows that bench-results/NAME.json has; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # openvino is an extra
        return None


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return str(value)
