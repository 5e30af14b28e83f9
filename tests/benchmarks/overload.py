"""What is left of a server's throughput when more is asked of it than it can do: `python tests/benchmarks/overload.py`.

    capacity: 32 callers in a closed loop ─→ 0.5, 1, 2, 3, 5 times that, in an open loop, every call with a deadline

The closed loop has a deadline that nobody misses, and so tells what the server can do. In a round, the time of 32
answers at that rate, everybody is answered once. The deadline of the open loops is three rounds, 0.25 s at least: tight
enough that a queue without end would show, on whatever processor. Each load is counted for `--seconds`, or for three
deadlines where that is longer.

Goodput is what was answered in time, counted alike in every row (see open_load.py), and `of peak` its share of the
best that the same server gave the same way of calling in the same round, in a closed or an open loop. The load
generator takes its time from the same cores, five times as much of it for five times the calls, as callers elsewhere
would not: `a core left` is the goodput for every core that it left to the server, and the next column its share of the
best of those. With `--apart` it has the last core for itself, and the server the others. `idle` is what nobody took of
the server's cores.

`refused`, `late` and `failed` are shares of all calls that ended. `server CPU ms` is all that the server spent, by
images that it answered: beside the closed loop's it tells what the refusals cost. p50 and p99 are of answers,
`refusal p50` and `p99` of refusals, and `lag` is how late the generator sent.

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
from callers import WAYS
from cases import CASES
from hosts import HOSTS, Host, in_turns
from processes import Running

from regard_server.frontend.polling import VARIABLE

HERE = Path(__file__).parent
CALLERS = 32
# The generator's own gRPC reads its sockets in the thread that takes its events: a call costs it two thirds of what it
# does otherwise, on the cores that the server has, too.
CHEAPER = "-event_engine_client"
# Of the closed loop: longer than a round of any network on any processor.
PATIENCE_S = 60.0
# Of the open loops, in rounds, and at least.
DEADLINE_ROUNDS = 3
SHORTEST_DEADLINE_S = 0.25
# What is counted spans so many.
DEADLINES = 3


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


def closed_load(server: Running, cores: Cores, asked: list[str], callers: int, seconds: float) -> dict:
    """Let so many callers ask who are never late, as the generator's options say; see `_load`."""
    options = [*asked, f"--callers={callers}", f"--timeout={PATIENCE_S}", f"--seconds={seconds}"]
    figures = _load(server, cores, options)
    return figures | {"rate": figures["goodput"], "round_s": callers / (figures["goodput"] or 1.0)}


def open_load(
    server: Running, cores: Cores, asked: list[str], rate: float, seconds: float, *, closed: dict
) -> dict:
    """Load a server at a rate, with the deadline that the figures of its closed loop make; see `_load`."""
    round_s = closed["round_s"]
    deadline_s = max(SHORTEST_DEADLINE_S, DEADLINE_ROUNDS * round_s)
    options = [*asked, f"--rate={rate}", f"--timeout={deadline_s}", f"--ramp={max(1.0, round_s)}"]
    figures = _load(server, cores, [*options, f"--seconds={max(seconds, DEADLINES * deadline_s)}"])
    return figures | {"rate": rate, "deadline_s": deadline_s}


def _load(server: Running, cores: Cores, options: list[str]) -> dict:
    """Run the load generator; return its figures, and what cores and memory were used."""
    command = [sys.executable, str(HERE / "open_load.py"), f"--target={server.target}", *options]
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
    seconds, answered = figures["seconds"], figures["answered"]
    return figures | {
        "rss_before_mib": rss_mib,
        "rss_after_mib": server.rss_mib(),
        "server_cores": spent_s / seconds,
        "server_cpu_ms": spent_s / answered * 1000 if answered else None,
        "idle_cores": idle_s / seconds,
        "per_core_left": figures["goodput"] / left,
    }


def once(host: Host, cores: Cores, case: str, model: Path, arguments: argparse.Namespace) -> Iterator[tuple]:
    """Measure one server from its start; yield (way, load, figures), goodput as a share of the peak included."""
    with on(cores.server), host.start(case, model) as server:
        seconds = arguments.seconds
        for way in (each for each in host.ways if each in arguments.ways):
            asked = [f"--case={case}", f"--way={way}"]
            closed = closed_load(server, cores, asked, CALLERS, seconds)
            found = {"closed": closed | {"deadline_s": None}}
            for factor in arguments.loads:
                rate = factor * closed["goodput"]
                found[f"{factor:g}x"] = open_load(server, cores, asked, rate, seconds, closed=closed)
            peaks = {of: max(each[of] for each in found.values()) for of in ("goodput", "per_core_left")}
            for name, figures in found.items():
                shares = {f"{of}_of_peak": figures[of] / peak for of, peak in peaks.items()}
                yield way, name, figures | shares


def rounds_of(
    case: str, hosts: list[Host], cores: Cores, arguments: argparse.Namespace
) -> dict[tuple, list[dict]]:
    """Measure every server in every round; leave out whoever does not start."""
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[case].save_model(Path(folder))

        def measured(host: Host) -> dict[tuple, dict]:
            told = once(host, cores, case, model, arguments)
            return {(host.name, way, load): figures for way, load, figures in told}

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
        "deadline s": median("deadline_s"),
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
        "server CPU ms": median("server_cpu_ms"),
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
    parser.add_argument("--cases", nargs="+", choices=[*CASES][1:], default=["resnet50"])
    parser.add_argument("--servers", nargs="+", choices=HOSTS, default=["regard"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="of those that a server has")
    parser.add_argument("--loads", nargs="+", type=float, default=[0.5, 1, 2, 3, 5])
    parser.add_argument("--mode", choices=["default", "same"], default="same", help="see peers.py")
    parser.add_argument("--seconds", type=float, default=8.0, help="of every measurement, at least")
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
        rule = (
            f"{SHORTEST_DEADLINE_S} s, or {DEADLINE_ROUNDS} rounds of {CALLERS} callers where that is longer"
        )
        print(f"{case}: {CASES[case].about}; deadlines of open loops: {rule}")
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
