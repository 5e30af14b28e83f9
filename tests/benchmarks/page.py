"""What the metrics port and its page cost: `python tests/benchmarks/page.py`.

    no port │ port, page off │ page, nobody looks │ page, one viewer (as the browser asks: once a second)

Readiness and resident memory of a fresh process, its processor time while nobody calls, in percent of one core, and
what 32 callers of the smallest network get from it.
"""

import argparse
import json
import socket
import sys
import threading
import time
import urllib.request

import report
from processes import Running, regard
from serving import measure, median
from startup import idle_percent

MODELS = "resnet_tiny,mhsa_mini,ea_mini"
CALLERS = 32
SPANS = {"no port": None, "port, page off": False, "page, nobody looks": False, "page, one viewer": True}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def view(address: str, stopping: threading.Event) -> None:
    """Ask for what is new once a second, as the page does."""
    since = 0.0
    while not stopping.wait(1.0):
        with urllib.request.urlopen(f"http://{address}/page/live.json?since={since}", timeout=10) as answer:
            since = (json.load(answer)["points"]["at"] or [since])[-1]


def once(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Start a server in one of the four ways and look at it."""
    address = f"127.0.0.1:{free_port()}" if name != "no port" else ""
    options = ["--metrics-address", address, *(["--no-page"] if name == "port, page off" else [])]
    with regard(MODELS, *options) as server:
        stopping = threading.Event()
        viewer = threading.Thread(target=view, args=(address, stopping))
        if SPANS[name]:
            viewer.start()
        figures = look(server, arguments)
        stopping.set()
        if SPANS[name]:
            viewer.join()
    return figures


def look(server: Running, arguments: argparse.Namespace) -> dict[str, float]:
    time.sleep(arguments.load)  # what starting leaves to be done
    percent = idle_percent(server, arguments.seconds)
    figures = {"ready_s": server.ready_s, "rss_mib": server.rss_mib(), "cpu_percent": percent}
    return figures | measure(server, "tiny", CALLERS, arguments.load)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of looking at a server")
    parser.add_argument("--load", type=float, default=3.0, help="seconds of load, and of rest before")
    parser.add_argument("--ways", nargs="+", choices=SPANS, default=[*SPANS])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[dict]] = {name: [] for name in arguments.ways}
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
        for name in arguments.ways:
            found[name].append(once(name, arguments))
    rows = []
    for name, rounds in found.items():
        figures = median(rounds)
        rows.append(
            {
                "way": name,
                "ready s": figures["ready_s"],
                "RSS MiB": figures["rss_mib"],
                "idle CPU %": figures["cpu_percent"],
                "images/s": figures["images_per_s"],
                "CPU ms/image": figures["server_cpu_ms"],
            }
        )
    report.print_table(rows)
    settings = {name: getattr(arguments, name) for name in ("seconds", "load", "rounds")}
    print("written to", report.save("page", rows, **settings))


if __name__ == "__main__":
    main()
