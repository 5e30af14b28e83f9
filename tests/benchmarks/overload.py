"""What is left of a server's throughput when more is asked of it than it can do: `python tests/benchmarks/overload.py`.

    capacity: 32 callers in a closed loop ─→ 0.5, 1, 2, 3, 5 times that, in an open loop, every call with a deadline

Goodput is what was answered in time, and `of peak` is its share of the best that the same server gave the same way
of calling in the same round, capacity included. Refusals should be quick, and whoever is accepted should be
answered in time; memory should be what it was. Each round starts a server anew.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import report
from cases import CASES
from hosts import HOSTS, Host
from processes import Running
from serving import measure

HERE = Path(__file__).parent
CALLERS = 32
# About three full batches of each case in the fastest mode: tight enough that a queue without end would show.
TIMEOUTS_S = {"tiny": 0.25, "small": 0.25, "mini": 0.5, "resnet50": 2.0}


def load(server: Running, case: str, way: str, rate: float, seconds: float) -> dict:
    """Load a server at a rate; return the generator's figures, the server's CPU time a call, and its memory."""
    options = [f"--target={server.target}", f"--case={case}", f"--way={way}", f"--rate={rate}"]
    options += [f"--timeout={TIMEOUTS_S[case]}", f"--seconds={seconds}"]
    command = [sys.executable, str(HERE / "open_load.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        before_s, rss_mib = server.cpu_s(), server.rss_mib()
        figures = json.loads(process.stdout.readline())
        spent_s = server.cpu_s() - before_s
    memory = {"rss_before_mib": rss_mib, "rss_after_mib": server.rss_mib()}
    return figures | memory | {"server_cpu_ms": spent_s * 1000 / figures["ended"]}


def once(host: Host, case: str, loads: list[float], model: Path, seconds: float) -> Iterator[tuple]:
    """Measure one server from its start; yield (way, load, figures), goodput as a share of the peak included."""
    with host.start(case, model) as server:
        for way in host.ways:
            capacity = measure(server, case, CALLERS, seconds, way)["images_per_s"]
            found = {
                factor: load(server, case, way, factor * capacity, seconds) | {"rate": factor * capacity}
                for factor in loads
            }
            peak = max(capacity, *(each["goodput"] for each in found.values()))
            for factor, figures in found.items():
                yield way, factor, figures | {"capacity": capacity, "of_peak": figures["goodput"] / peak}


def row(host: str, way: str, factor: float, rounds: list[dict]) -> dict:
    """Return a line of the table: medians over rounds."""

    def median(name: str) -> float | str:
        values = [each[name] for each in rounds if each[name] is not None]
        return statistics.median(values) if values else ""

    return {
        "server": host,
        "way": way,
        "load": f"{factor:g}x",
        "asked/s": median("rate"),
        "goodput/s": median("goodput"),
        "of peak": median("of_peak"),
        "refused %": 100 * median("refused"),
        "late %": 100 * median("late"),
        "failed %": 100 * median("failed"),
        "p50 ms": median("p50_ms"),
        "p99 ms": median("p99_ms"),
        "refusal p50 ms": median("refusal_p50_ms"),
        "refusal p99 ms": median("refusal_p99_ms"),
        "server CPU ms": median("server_cpu_ms"),
        "client CPU ms": median("client_cpu_ms"),
        "lag p99 ms": median("lag_p99_ms"),
        "RSS MiB": median("rss_before_mib"),
        "RSS after": median("rss_after_mib"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=TIMEOUTS_S, default=["resnet50"])
    parser.add_argument("--servers", nargs="+", choices=HOSTS, default=["regard"])
    parser.add_argument("--loads", nargs="+", type=float, default=[0.5, 1, 2, 3, 5])
    parser.add_argument("--mode", choices=["default", "same"], default="same", help="see peers.py")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    rows: list[dict] = []
    for case in arguments.cases:
        found: dict[tuple, list[dict]] = {}
        with tempfile.TemporaryDirectory() as folder:
            model = CASES[case].save_model(Path(folder))
            for number in range(1, arguments.rounds + 1):
                for name in arguments.servers:
                    print(f"{case}: {name}, round {number} of {arguments.rounds}", file=sys.stderr)
                    host = HOSTS[name].in_mode(arguments.mode)
                    for way, factor, figures in once(host, case, arguments.loads, model, arguments.seconds):
                        found.setdefault((name, way, factor), []).append(figures)
        print(f"{case}: {CASES[case].about}; deadline {TIMEOUTS_S[case]:g} s")
        rows_of_case = [row(*key, rounds) for key, rounds in found.items()]
        report.print_table(rows_of_case)
        rows += [{"case": case, **each} for each in rows_of_case]
    settings = {"seconds": arguments.seconds, "rounds": arguments.rounds, "mode": arguments.mode}
    print("written to", report.save("overload", rows, **settings))


if __name__ == "__main__":
    main()
