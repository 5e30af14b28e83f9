"""What metrics cost: the same server with and without them, and every call by itself. Target: 1 % of CPU an image.

Two servers of a case run side by side, of which one counts nothing and is never scraped; the other is scraped every
second, five times as often as docker-compose.yml does. They are loaded in turns, in slices of a few seconds and in an
order that changes, and each slice is compared with its neighbour: the machine drifts. What single calls cost is
measured in this process, and is the steadier figure.
"""

import argparse
import logging
import socket
import statistics
import sys
import tempfile
import threading
import timeit
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import process_time

import numpy as np
import report
from cases import CASES
from processes import Running, running
from prometheus_client import generate_latest
from serving import measure

from regard_server.embeddings import EmbeddingHealth
from regard_server.metrics import Metrics

HERE = Path(__file__).parent
SERVER = str(HERE / "observed_server.py")
QUIET = ("--address", "127.0.0.1:0", "--log-level", "warning")
SCRAPE_EVERY_S = 1.0
# Images of which nothing is computed tell what serving costs at its cheapest.
NULL = "null"


@contextmanager
def scraped(address: str):
    """Scrape a server as Prometheus does, from a thread."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_EVERY_S):
            urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    yield
    over.set()
    thread.join()


def start(stack: ExitStack, case: str, kind: str, folder: Path) -> Running:
    """Start a server; the one with metrics is scraped from now on."""
    model = f"model={CASES[case].save_model(folder)}"
    nothing = ["--null"] if case == NULL else []
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}" if kind == "on" else ""
    command = [sys.executable, SERVER, kind, *nothing, *QUIET, "--metrics-address", where, "--models", model]
    server = stack.enter_context(running(command, environment={"OMP_WAIT_POLICY": "PASSIVE"}))
    if kind == "on":
        stack.enter_context(scraped(where))
    return server


def compare(case: str, way: str, *, callers: int, seconds: float, pairs: int) -> dict:
    """Load both servers in turns; return the CPU of each an image, and the median difference of neighbours."""
    spent: dict[str, list[float]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {kind: start(stack, case, kind, Path(folder)) for kind in spent}
        for number in range(pairs):
            print(f"{case}, {way}: pair {number + 1} of {pairs}", file=sys.stderr)
            for kind in ("on", "off") if number % 2 else ("off", "on"):
                spent[kind].append(measure(servers[kind], case, callers, seconds, way)["server_cpu_ms"])
    more = [(on / off - 1) * 100 for on, off in zip(spent["on"], spent["off"], strict=True)]
    low, _, high = statistics.quantiles(more, n=4)
    return {
        "case": case,
        "way": way,
        "callers": callers,
        "without, CPU µs": statistics.median(spent["off"]) * 1000,
        "with, CPU µs": statistics.median(spent["on"]) * 1000,
        "more %": statistics.median(more),
        "quartiles %": f"{low:.1f} … {high:.1f}",
        # The library's callers ride together: half of them are in a message, and that is a batch.
        "of calls µs": calls_us(max(1, callers // 2), together=way == "client"),
    }


def calls_us(batch: int, *, together: bool) -> float:
    """Return what the calls for one image cost, of a batch of so many that came in one message, or in one each."""
    health = EmbeddingHealth(
        samples_per_s=4, reference_samples=512, folder=None, logger=logging.getLogger("none")
    )
    health.watch("model", "fingerprint", 512)
    metrics = Metrics(health)
    metrics.expect(models=["model"], methods=["Extract"])
    outputs = {"embedding": np.zeros((batch, 512), np.float32)}
    # Pixels that come in one message are gathered, and counted together.
    images, messages = (batch, 1) if together else (1, batch)

    def count() -> None:
        metrics.batch_size.labels("model").observe(batch)
        metrics.compute_seconds.labels("model").observe(0.01)
        metrics.embeddings.offer("model", outputs)
        for _ in range(messages):
            metrics.queue_seconds.labels("model").observe(0.003, images)
            metrics.received_bytes.inc(3072)
            metrics.decode_seconds.labels("model").observe(0.0001, images)
            metrics.items.labels("model", "ok").inc(images)
            metrics.sent_bytes.inc(2100)
            metrics.requests.labels("Extract", "OK").inc()
            metrics.request_seconds.labels("Extract").observe(0.02)

    count()
    number = 20_000 // batch
    return min(timeit.repeat(count, timer=process_time, number=number, repeat=5)) / number / batch * 1e6


def scrape_ms() -> float:
    """Return what a scrape costs of one model whose window of embeddings, 2,048 long, has just filled anew."""
    health = EmbeddingHealth(
        samples_per_s=100,
        reference_samples=64,
        folder=None,
        logger=logging.getLogger("none"),
        clock=iter(range(10**9)).__next__,
    )
    health.watch("model", "fingerprint", 2048)
    metrics = Metrics(health)
    metrics.expect(models=["model"], methods=["Extract", "StreamExtract", "ListModels", "GetModel"])
    rows = np.random.default_rng(0).normal(size=(20, 2048)).astype(np.float32)

    def scrape() -> None:
        for row in rows:  # five seconds' worth
            health.offer("model", {"embedding": row})
        generate_latest(metrics.registry)

    for _ in range(10):
        scrape()
    return min(timeit.repeat(scrape, timer=process_time, number=10, repeat=5)) / 10 * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["null", "small", "resnet50"])
    parser.add_argument("--ways", nargs="+", choices=["stub", "client"], default=["stub", "client"])
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="of every slice")
    parser.add_argument("--pairs", type=int, default=6)
    arguments = parser.parse_args()
    rows: list[dict] = []
    for case in arguments.cases:
        for way in arguments.ways:
            found = compare(
                case,
                way,
                callers=arguments.callers,
                seconds=arguments.seconds,
                pairs=arguments.pairs,
            )
            report.print_table([found])
            rows.append(found)
    report.print_table(rows)
    rows.append({"case": "one scrape", "ms": scrape_ms()})
    print(f"one scrape, with five seconds' worth of embeddings: {rows[-1]['ms']:.2f} ms")
    settings = {"seconds": arguments.seconds, "pairs": arguments.pairs}
    print("written to", report.save("metrics_cost", rows, **settings))


if __name__ == "__main__":
    main()
