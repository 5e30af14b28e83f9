"""What is left of a server's throughput when more is asked of it than it can do: `python tests/benchmarks/overload.py`.

    capacity: 32 callers in a closed loop ─→ 0.5, 1, 2, 3, 5 times that, in an open loop, every call with a deadline

Goodput is what was answered in time, counted alike in every row (see open_load.py), and `of peak` its share of the
best that the same server gave the same way of calling in the same round. The load generator takes its time from the
same cores, five times as much of it for five times the calls, as callers elsewhere would not: `a core left` is the
goodput for every core that it left to the server, and the next column its share of the best of those. With `--apart` it
has the last core for itself, and the server the others. `idle` is what nobody took of the server's cores.

Refusals should be quick, and whoever is accepted should be answered in time; memory should be what it was. Each round
starts a server anew; another's that does not start is left out from then on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import report
from cases import CASES
from hosts import HOSTS, Host, in_turns
from processes import Running

from regard_server.frontend.polling import VARIABLE

HERE = Path(__file__).parent
CALLERS = 32
# The generator's own gRPC reads its sockets in the thread that takes its events: a call costs it two thirds of what it
# does otherwise, on the cores that the server has, too.
CHEAPER = "-event_engine_client"
# About three full batches of each case in the fastest mode: tight enough that a queue without end would show.
TIMEOUTS_S = {"tiny": 0.25, "small": 0.25, "mini": 0.5, "resnet50": 2.0}


@dataclass(frozen=True)
class Cores:
    """Which cores the server may use, and which the load generator."""

    server: frozenset[int]
    generator: frozenset[int]

    @classmethod
    def of_machine(cls, *, apart: bool) -> "Cores":
        every = frozenset(os.sched_getaffinity(0))
        last = frozenset({max(every)})
        return cls(every - last, last) if apart else cls(every, every)

    def idle_s(self) -> float:
        """Return for how long the server's cores have been idle, all together."""
        times = psutil.cpu_times(percpu=True)
        return sum(times[core].idle for core in self.server)


@contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """Start processes that run on some cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def load(server: Running, cores: Cores, options: list[str], seconds: float) -> dict:
    """Load a server as the generator's options say; return its figures, and what cores and memory were used."""
    generator = [sys.executable, str(HERE / "open_load.py"), f"--target={server.target}"]
    command = [*generator, *options, f"--seconds={seconds}"]
    environment = os.environ | {VARIABLE: CHEAPER}
    with (
        on(cores.generator),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
    ):
        process.stdout.readline()
        spent_s, idle_s, rss_mib = server.cpu_s(), cores.idle_s(), server.rss_mib()
        figures = json.loads(process.stdout.readline())
        spent_s, idle_s = server.cpu_s() - spent_s, cores.idle_s() - idle_s
    left = len(cores.server) - (figures["client_cores"] if cores.server == cores.generator else 0.0)
    return figures | {
        "rss_before_mib": rss_mib,
        "rss_after_mib": server.rss_mib(),
        "server_cores": spent_s / seconds,
        "idle_cores": idle_s / seconds,
        "per_core_left": figures["goodput"] / left,
    }


def once(
    host: Host, cores: Cores, case: str, loads: list[float], *, model: Path, seconds: float
) -> Iterator[tuple]:
    """Measure one server from its start; yield (way, load, figures), goodput as a share of the peak included."""
    with on(cores.server), host.start(case, model) as server:
        for way in host.ways:
            options = [f"--case={case}", f"--way={way}", f"--timeout={TIMEOUTS_S[case]}"]
            closed = load(server, cores, [*options, f"--callers={CALLERS}"], seconds)
            found = {"closed": closed | {"rate": closed["goodput"]}}
            for factor in loads:
                rate = factor * closed["goodput"]
                figures = load(server, cores, [*options, f"--rate={rate}"], seconds)
                found[f"{factor:g}x"] = figures | {"rate": rate}
            for name, figures in found.items():
                shares = {
                    f"{of}_of_peak": figures[of] / max(each[of] for each in found.values())
                    for of in ("goodput", "per_core_left")
                }
                yield way, name, figures | shares


def rounds_of(
    case: str, hosts: list[Host], cores: Cores, arguments: argparse.Namespace
) -> dict[tuple, list[dict]]:
    """Measure every server in every round; leave out whoever does not start."""
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[case].save_model(Path(folder))

        def measured(host: Host) -> dict[tuple, dict]:
            told = once(host, cores, case, arguments.loads, model=model, seconds=arguments.seconds)
            return {(host.name, way, load_name): figures for way, load_name, figures in told}

        return in_turns(case, hosts, arguments.rounds, measured, (RuntimeError,))


def row(host: str, way: str, name: str, rounds: list[dict]) -> dict:
    """Return a line of the table: medians over rounds."""

    def median(figure: str) -> float | str:
        values = [each[figure] for each in rounds if each[figure] is not None]
        return statistics.median(values) if values else ""

    return {
        "server": host,
        "way": way,
        "load": name,
        "asked/s": median("rate"),
        "goodput/s": median("goodput"),
        "of peak": median("goodput_of_peak"),
        "a core left": median("per_core_left"),
        "of its peak": median("per_core_left_of_peak"),
        "refused %": 100 * median("refused"),
        "late %": 100 * median("late"),
        "failed %": 100 * median("failed"),
        "p50 ms": median("p50_ms"),
        "p99 ms": median("p99_ms"),
        "refusal p50 ms": median("refusal_p50_ms"),
        "refusal p99 ms": median("refusal_p99_ms"),
        "server cores": median("server_cores"),
        "generator cores": median("client_cores"),
        "idle cores": median("idle_cores"),
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
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--apart", action="store_true", help="give the load generator a core for itself")
    arguments = parser.parse_args()
    cores = Cores.of_machine(apart=arguments.apart)
    rows: list[dict] = []
    left_out: list[str] = []
    for case in arguments.cases:
        hosts = [HOSTS[name].in_mode(arguments.mode) for name in arguments.servers]
        found = rounds_of(case, hosts, cores, arguments)
        started = {host.name for host in hosts}
        left_out += [f"{name}, {case}" for name in arguments.servers if name not in started]
        print(f"{case}: {CASES[case].about}; deadline {TIMEOUTS_S[case]:g} s")
        rows_of_case = [row(*key, rounds) for key, rounds in found.items()]
        report.print_table(rows_of_case)
        rows += [{"case": case, **each} for each in rows_of_case]
    settings = {
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "mode": arguments.mode,
        "apart": arguments.apart,
        "left_out": left_out,
    }
    print("written to", report.save("overload", rows, **settings))


if __name__ == "__main__":
    main()
