"""regard beside other servers that host the same module: `python tests/benchmarks/peers.py`.

    --mode default   every server as its users would run it: peers eagerly in float32, regard by engine = auto
    --mode same      the same engine in the same arithmetic (OpenVINO, bfloat16) behind each: only serving differs
    --case           null: the mean of a picture; small: ResNet-18 at 64x64; resnet50: JPEG 500x375 to 224

Dynamic batching is on wherever there is any, up to 32, with the same delay. Load comes from one Python process, on
the same cores; its own cost stands beside. Servers take turns within a round, medians over rounds: compare within a
run, never between runs. `client` is regard's library with concurrent calls riding together, `stub` generated stubs
with a call an image, and peers are asked as callers.py describes. `--install` makes the peers' environments.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import report
from cases import CASES
from hosts import HOSTS, Host, in_turns
from serving import measure, median


def install(names: list[str], interpreter: str) -> None:
    """Make the environments of these peers; say which cannot be made, and go on."""
    for host in map(HOSTS.get, names):
        print(f"{host.name}: {' '.join(host.packages) or 'nothing to install'}", file=sys.stderr)
        try:
            host.install(interpreter)
        except subprocess.CalledProcessError as error:
            print(f"{host.name}: {error}", file=sys.stderr)


def once(host: Host, case: str, callers: list[int], model: Path, seconds: float) -> dict[tuple, dict]:
    """Measure one server from its start; return figures by way and number of callers."""
    with host.start(case, model) as server:
        return {
            (host.name, way, count): measure(server, case, count, seconds, way)
            for way in host.ways
            for count in callers
        }


def rounds_of(hosts: list[Host], arguments: argparse.Namespace) -> dict[tuple, list[dict]]:
    """Measure every server in every round; leave out whoever does not start."""
    with tempfile.TemporaryDirectory() as folder:
        model = CASES[arguments.case].save_model(Path(folder))

        def measured(host: Host) -> dict[tuple, dict]:
            return once(host, arguments.case, arguments.callers, model, arguments.seconds)

        return in_turns(
            arguments.case, hosts, arguments.rounds, measured, (RuntimeError, ValueError, OSError)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--install", action="store_true", help="make the peers' environments, measure nothing"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter of those environments")
    parser.add_argument("--case", choices=["null", "small", "resnet50"], default="null")
    parser.add_argument("--mode", choices=["default", "same"], default="default")
    parser.add_argument("--servers", nargs="+", choices=HOSTS, default=list(HOSTS))
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=2.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.servers, arguments.python)
        return
    hosts = [HOSTS[name].in_mode(arguments.mode) for name in arguments.servers]
    rows = []
    for (name, way, count), rounds in rounds_of(hosts, arguments).items():
        figures = median(rounds)
        rows.append(
            {
                "server": name,
                "way": way,
                "callers": count,
                "calls/s": figures["images_per_s"],
                "p50 ms": figures["p50_ms"],
                "p99 ms": figures["p99_ms"],
                "server CPU ms": figures["server_cpu_ms"],
                "client CPU ms": figures["client_cpu_ms"],
                "batch": figures["mean_batch"] or "",
                "errors": int(figures["errors"]),
            }
        )
    rows.sort(key=lambda row: row["callers"])  # stable: servers keep their order
    machine = report.machine()
    print(
        f"{machine['processor']}, {machine['cores']} cores; {arguments.case}: {CASES[arguments.case].about}"
    )
    print(f"mode {arguments.mode}; the load generator is Python\n")
    report.print_table(rows)
    settings = {name: getattr(arguments, name) for name in ("case", "mode", "seconds", "rounds")}
    packages = {host.name: host.packages for host in hosts if host.packages}
    name = f"peers-{arguments.case}-{arguments.mode}"
    print("written to", report.save(name, rows, packages=packages, **settings))


if __name__ == "__main__":
    main()
