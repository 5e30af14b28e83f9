"""A small model while another process keeps one core busy: `python tests/benchmarks/neighbours.py`.

    server and 8 callers alone │ the same beside a loop that never rests │ the same with threads that spin

Threads that spin while they wait are fast alone and collapse when they do not get their core. `regard serve` has them
sleep (OMP_WAIT_POLICY=PASSIVE), and OpenVINO's own threads do not spin; `spinning` is the eager network with the
policy that OpenMP has by itself, to show what is avoided. `of alone` is the throughput that is left; two cores shared
by three leave two thirds at best.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import processes
import report
from cases import CASES
from serving import measure

EAGER = ("--engine", "eager", "--dtype", "float32")
SERVERS = {
    "auto": ((), "PASSIVE"),
    "eager": (EAGER, "PASSIVE"),
    "eager, spinning": (EAGER, "ACTIVE"),
}
# It ends by itself, too, whatever becomes of this process.
LOOP = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    with subprocess.Popen([sys.executable, "-c", LOOP]) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=["tiny", "small", "mini"], default="small")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[*SERVERS])
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[arguments.case].save_model(Path(folder))
        for number in range(1, arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
            for name in arguments.servers:
                options, policy = SERVERS[name]
                with processes.regard(f"model={model}", *options, wait_policy=policy) as server:
                    for neighbour, beside in (("none", nullcontext()), ("one core busy", busy_core())):
                        with beside:
                            figures = measure(server, arguments.case, arguments.callers, arguments.seconds)
                        found.setdefault((name, neighbour), []).append(figures)
    rows = []
    for (name, neighbour), rounds in found.items():
        rates = [each["images_per_s"] for each in rounds]
        alone = [each["images_per_s"] for each in found[name, "none"]]
        rows.append(
            {
                "engine": name,
                "neighbour": neighbour,
                "images/s": statistics.median(rates),
                "p50 ms": statistics.median(each["p50_ms"] for each in rounds),
                "p99 ms": statistics.median(each["p99_ms"] for each in rounds),
                "of alone": statistics.median(rates) / statistics.median(alone),
            }
        )
    case = CASES[arguments.case]
    print(f"{report.machine()['processor']}; {case.about}; {arguments.callers} callers\n")
    report.print_table(rows)
    settings = {"case": arguments.case, "callers": arguments.callers, "rounds": arguments.rounds}
    print("written to", report.save("neighbours", rows, **settings))


if __name__ == "__main__":
    main()
