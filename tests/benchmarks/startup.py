"""From start to ready, idle cost and memory: `python tests/benchmarks/startup.py`.

    import torch, alone in a process │ cache empty: the choice is measured │ cache filled: the choice is read

`beyond torch` is what the server takes on top of a process that only imports torch, in the same round. Memory is
resident, of the server's process, when ready, and after load by 32 callers; idle cost is processor time over some
seconds in which nobody calls.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from cases import CASES
from processes import Running, regard
from serving import measure, median

CALLERS = 32


def import_torch_s() -> float:
    """Return how long a process takes that imports torch and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def idle_percent(server: Running, seconds: float) -> float:
    """Return the share of one core that the server takes while nobody calls."""
    before_s = server.cpu_s()
    time.sleep(seconds)
    return (server.cpu_s() - before_s) / seconds * 100


def once(case: str, cache: Path, arguments: argparse.Namespace) -> dict[str, dict]:
    """Start the server with an empty cache, then with the one that this filled."""
    torch_s = import_torch_s()
    found = {"import torch": {"ready_s": torch_s}}
    for state in ("empty", "filled"):
        with regard(CASES[case].model, "--cache-dir", str(cache)) as server:
            figures = {"ready_s": server.ready_s, "beyond_torch_s": server.ready_s - torch_s}
            if state == "filled":
                figures |= {"rss_mib": server.rss_mib(), "idle_percent": idle_percent(server, arguments.idle)}
                measure(server, case, CALLERS, arguments.seconds)
                figures["rss_after_load_mib"] = server.rss_mib()
            found[state] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=["tiny", "mini", "resnet50"], default="mini")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of doing nothing")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[dict]] = {}
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as cache:
            for state, figures in once(arguments.case, Path(cache), arguments).items():
                found.setdefault(state, []).append(figures)
    rows = []
    for state, rounds in found.items():
        figures = median(rounds)
        row = {
            "cache": state,
            "ready s": figures["ready_s"],
            "beyond torch s": figures.get("beyond_torch_s", ""),
        }
        if "rss_mib" in figures:
            row["RSS MiB"] = figures["rss_mib"]
            row["after load"] = figures["rss_after_load_mib"]
            row["idle CPU %"] = figures["idle_percent"]
        rows.append(row)
    case = CASES[arguments.case]
    print(f"{report.machine()['processor']}; {case.model}: {case.about}\n")
    report.print_table(rows)
    settings = {"case": arguments.case, "rounds": arguments.rounds, "idle_s": arguments.idle}
    print("written to", report.save("startup", rows, **settings))


if __name__ == "__main__":
    main()
