"""The whole way once: start a server, send it the sample photographs, say which look alike, stop it.

`make demo` runs this. Everything goes through the public doors: the `regard` command, and the client library
over gRPC, from many threads at once, so that the server batches them.
"""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from regard_client import Client, Result
from regard_models.samples import sample_photographs

READY = "regard is ready on "
ROUNDS = 3
START_TIMEOUT_S = 120


@contextmanager
def running_server(*more: str) -> Iterator[str]:
    """Run `regard serve` with `more` options on a free port; yield its address, and stop it as an operator would."""
    command = [str(Path(sys.executable).with_name("regard")), "serve"]
    options = ["--address", "127.0.0.1:0", "--metrics-address", "", "--log-level", "warning", *more]
    print("==> starting a server:", "regard serve", *options[:2], flush=True)
    began = time.perf_counter()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith(READY):
            sys.exit(f"the server did not start; it said: {line or 'nothing'}")
        print(f"    ready after {time.perf_counter() - began:.1f} s on {line.removeprefix(READY).strip()}")
        try:
            yield line.removeprefix(READY).strip()
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(START_TIMEOUT_S)
            print(f"==> server stopped with status {status}")
    if status:
        sys.exit(status)


def extract_all(client: Client, photographs: list[Path]) -> list[Result]:
    """Send every photograph from a thread of its own, a few rounds of them; return the last round."""
    results: list[Result] = []
    with ThreadPoolExecutor(len(photographs)) as threads:
        for number in range(1, ROUNDS + 1):
            began = time.perf_counter()
            results = list(threads.map(client.result, photographs))
            elapsed = time.perf_counter() - began
            sizes = Counter(result.timings.batch_size for result in results)
            batches = ", ".join(f"{count // size} of {size}" for size, count in sorted(sizes.items()) if size)
            print(
                f"    round {number}: {len(results)} photographs in {elapsed * 1000:.0f} ms; batches: {batches}"
            )
    return results


def print_neighbours(photographs: list[Path], results: list[Result]) -> None:
    """Print for every photograph its nearest other one, and where its time went on the server."""
    vectors = np.stack([result.outputs["embedding"] for result in results])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    print(
        f"\n{'photograph':<12}{'nearest':<12}{'cosine':>7}   {'decode':>8}{'queue':>8}{'compute':>9}   batch"
    )
    for photograph, row, result in zip(photographs, similarity, results, strict=True):
        nearest, spent = int(row.argmax()), result.timings
        print(
            f"{photograph.stem:<12}{photographs[nearest].stem:<12}{row[nearest]:>7.3f}   "
            f"{spent.decode_ms:>5.1f} ms{spent.queue_ms:>5.1f} ms{spent.compute_ms:>6.1f} ms   {spent.batch_size:>5}"
        )
    print()


def main() -> None:
    """Run the demonstration."""
    photographs = sample_photographs()
    with running_server() as address, Client(address) as client:
        model = client.model()
        print(f"==> model {model.name}: {model.weights}; fingerprint {model.fingerprint[:12]}")
        if not model.trained:
            print(
                "    UNTRAINED: its neighbours are of little meaning; the way they were found is the real one"
            )
        print(f"==> sending {len(photographs)} photographs, all at once, {ROUNDS} times")
        results = extract_all(client, photographs)
        print_neighbours(photographs, results)


if __name__ == "__main__":
    main()
