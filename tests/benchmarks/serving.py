"""A served model against the same model in a plain loop: `python tests/benchmarks/serving.py`.

Server and load generator are processes of their own, on the same cores. Rounds are interleaved, medians shown,
because a shared machine drifts: compare within a run, never between runs. `of loop` is the served throughput
over that of the loop at its best batch size, in this run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import report
from cases import CASES
from processes import Running, regard

HERE = Path(__file__).parent


def loop(case: str, model: Path, seconds: float) -> list[dict]:
    """Run the plain loop; return its figures for every batch size."""
    options = [f"--case={case}", f"--model={model}", f"--seconds={seconds}"]
    command = [sys.executable, str(HERE / "loop.py"), *options]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def measure(server: Running, case: str, callers: int, seconds: float, way: str = "client") -> dict:
    """Load a server once; return the load generator's figures and the server's CPU time an image."""
    options = [f"--target={server.target}", f"--case={case}", f"--callers={callers}", f"--seconds={seconds}"]
    options.append(f"--way={way}")
    with subprocess.Popen(
        [sys.executable, str(HERE / "load.py"), *options], stdout=subprocess.PIPE, text=True
    ) as load:
        load.stdout.readline()  # it is warm
        before_s = server.cpu_s()
        figures = json.loads(load.stdout.readline())
        spent_s = server.cpu_s() - before_s
    return figures | {"server_cpu_ms": spent_s / figures["images"] * 1000}


def median(rounds: list[dict]) -> dict:
    """Return the median of every figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def benchmark(case: str, callers: list[int], seconds: float, rounds: int) -> list[dict]:
    """Measure one case; return a row for the loop and one for every number of callers."""
    loops: dict[int, list[dict]] = {}
    served: dict[int, list[dict]] = {count: [] for count in callers}
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[case].save_model(Path(folder))
        for number in range(1, rounds + 1):
            print(f"{case}: round {number} of {rounds}", file=sys.stderr)
            for figures in loop(case, model, seconds / 2):
                loops.setdefault(int(figures["size"]), []).append(figures)
            with regard(f"model={model}") as server:
                for count in callers:
                    served[count].append(measure(server, case, count, seconds))
    best = max((median(each) for each in loops.values()), key=lambda each: each["images_per_s"])
    rows = [
        {
            "case": case,
            "callers": f"loop, batch {best['size']:.0f}",
            "images/s": best["images_per_s"],
            "server CPU ms": best["cpu_ms"],
            "of loop": 1.0,
        }
    ]
    for count, each in served.items():
        figures = median(each)
        rows.append(
            {
                "case": case,
                "callers": count,
                "images/s": figures["images_per_s"],
                "p50 ms": figures["p50_ms"],
                "p95 ms": figures["p95_ms"],
                "p99 ms": figures["p99_ms"],
                "batch": figures["mean_batch"],
                "server CPU ms": figures["server_cpu_ms"],
                "client CPU ms": figures["client_cpu_ms"],
                "errors": int(figures["errors"]),
                "of loop": figures["images_per_s"] / best["images_per_s"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=[*CASES][1:], default=["tiny", "small", "mini"])
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    machine = report.machine()
    print(
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, grpcio {machine['grpcio']}\n"
    )
    rows: list[dict] = []
    for case in arguments.cases:
        found = benchmark(case, arguments.callers, arguments.seconds, arguments.rounds)
        print(f"{case}: {CASES[case].about}")
        report.print_table([{key: value for key, value in row.items() if key != "case"} for row in found])
        print()
        rows += found
    print("written to", report.save("serving", rows, seconds=arguments.seconds, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
