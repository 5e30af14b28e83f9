"""What serving costs: the front ends beside plain grpc.aio servers, with a model that costs nothing.

Uint8 images of 32×32, one a message from plain stubs where nothing else is said: in a stream, sixteen a message, or by
this library's client, whose concurrent calls ride together. Costs and rates are an image's; `of plain` is the server's
CPU beside that of the plain server, asked by plain stubs. Latencies are a message's.

Servers and callers are processes of their own, on the same cores; rounds are interleaved and medians shown, because a
shared machine drifts: compare within a run, never between runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import report

from regard_server.frontend.polling import BY_ITSELF, VARIABLE

HERE = Path(__file__).parent
MANY = "--images=16"


@dataclass(frozen=True)
class Kind:
    """What is measured.

    Attributes:
        server: arguments of null_server.py.
        asked: options of unary_load.py.
    """

    server: tuple[str, ...]
    asked: tuple[str, ...] = ()


def _regard(about: str, frontend: str) -> dict[str, Kind]:
    return {
        f"regard, {about}": Kind((frontend,)),
        f"regard, {about}, stream": Kind((frontend,), ("--way=stream",)),
        f"regard, {about}, 16 a message": Kind((frontend,), (MANY,)),
        f"regard, {about}, our client": Kind((frontend,), ("--way=client",)),
    }


PLAIN = "plain batcher, grpc.aio"
KINDS = {
    "echo, grpc.aio": Kind(("public", "--serve=echo")),
    "echo, direct": Kind(("direct", "--serve=echo")),
    PLAIN: Kind(("public", "--serve=plain")),
    **_regard("grpc.aio", "public"),
    **_regard("direct", "direct"),
}


@contextmanager
def server(arguments: tuple[str, ...]) -> Iterator[tuple[str, psutil.Process]]:
    """Start a null server; yield its address and process."""
    command = [sys.executable, str(HERE / "null_server.py"), *arguments]
    environment = dict(os.environ)
    if arguments[0] == "direct":
        environment.setdefault(VARIABLE, BY_ITSELF)  # as `regard serve` has it
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.stdin.close()
            process.wait(30)


def measure(kind: str, callers: int, seconds: float, target: str, process: psutil.Process) -> dict:
    """Load a server once; return the callers' figures and the server's CPU time an image."""
    options = [f"--target={target}", f"--callers={callers}", f"--seconds={seconds}"]
    command = [sys.executable, str(HERE / "unary_load.py"), *options, *KINDS[kind].asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        load.stdout.readline()
        before = process.cpu_times()
        figures = json.loads(load.stdout.readline())
        after = process.cpu_times()
    spent = (after.user + after.system) - (before.user + before.system)
    return figures | {"server_cpu_ms": spent / figures["images"] * 1000}


def row(kind: str, callers: int, rounds: list[dict], plain: list[dict]) -> dict:
    """Return one line of the table: medians, and the server's CPU time over that of the plain one."""
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    of_plain = statistics.median(
        each["server_cpu_ms"] / base["server_cpu_ms"] for each, base in zip(rounds, plain, strict=True)
    )
    return {
        "server": kind,
        "callers": callers,
        "images/s": found["images_per_s"],
        "p50 ms": found["p50_ms"],
        "p99 ms": found["p99_ms"],
        "server CPU ms": found["server_cpu_ms"],
        "client CPU ms": found["client_cpu_ms"],
        "of plain": of_plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="besides the plain one")
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=2.0, help="of every measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures: dict[tuple[str, int], list[dict]] = {}
    with ExitStack() as stack:
        kinds = [kind for kind in KINDS if kind in {PLAIN, *arguments.kinds}]
        needed = dict.fromkeys(KINDS[kind].server for kind in kinds)
        servers = {each: stack.enter_context(server(each)) for each in needed}
        for number in range(1, arguments.rounds + 1):
            print(f"round {number} of {arguments.rounds}", file=sys.stderr)
            for callers in arguments.callers:
                for kind in kinds:
                    found = measure(kind, callers, arguments.seconds, *servers[KINDS[kind].server])
                    figures.setdefault((kind, callers), []).append(found)
    rows = [
        row(*at, rounds, figures[PLAIN, at[1]])
        for at, rounds in sorted(figures.items(), key=lambda i: i[0][1])
    ]
    report.print_table(rows)
    settings = {"seconds": arguments.seconds, "rounds": arguments.rounds}
    print("written to", report.save("frontend", rows, **settings))


if __name__ == "__main__":
    main()
